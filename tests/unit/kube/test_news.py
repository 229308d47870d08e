"""News counts from the first change that nobody acted on yet."""

from __future__ import annotations

import time

from prestage.kube.news import News


def test_it_is_since_the_first_set_after_a_clear() -> None:
    news = News()
    news.set()
    first_s = news.since_s
    time.sleep(0.002)
    news.set()
    assert news.since_s == first_s
    news.clear()
    news.set()
    assert news.since_s > first_s
