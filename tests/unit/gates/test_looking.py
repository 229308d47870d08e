"""A look at many pods says of each what a look at every node for every pod would say."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from pods.objects import artifact, node, node_cache, pod
from pods.worlds import world

from prestage.control.gates.looking import Look
from prestage.control.gates.prediction import outlook
from prestage.control.gates.world import World
from prestage.kube.ports import Object

DIGESTS = tuple(f"sha256:{letter * 64}" for letter in "abc")
STATES = st.sampled_from(["Pending", "Staging", "Warm", "Failed", "Releasing"])
CACHES = st.none() | st.tuples(st.dictionaries(st.sampled_from(DIGESTS), STATES), st.sampled_from([None, 1, 50, 1000]))


@st.composite
def worlds(draw: st.DrawFn) -> tuple[World, list[Object]]:
    """Up to five nodes of one to three accelerators; sizes of some artifacts are known."""
    objects = list[Object]()
    for number in range(draw(st.integers(1, 5))):
        name = f"n{number}"
        objects.append(node(name, gpus=draw(st.integers(0, 3)), labelled=draw(st.booleans())))
        if (cache := draw(CACHES)) is not None:
            objects.append(node_cache(name, cache[0], rate=cache[1], code="NoSuchKey"))
    for digest in draw(st.sets(st.sampled_from(DIGESTS))):
        objects.append(artifact(digest, size=draw(st.integers(0, 5000))))
    return world(*objects), [pod(name=f"p{number}", gpus=1) for number in range(draw(st.integers(1, 4)))]


@given(worlds(), st.sets(st.sampled_from(DIGESTS), min_size=1))
def test_what_is_found_out_once_is_what_every_node_says(drawn: tuple[World, list[Object]], wanted: set[str]) -> None:
    there, pods = drawn
    look, digests = Look(there), tuple(sorted(wanted))
    for one in pods:
        needs = there.wishes.of(one).needs
        fit, prospect = look.fit(needs), look.prospect(needs, digests)
        looks = {name: outlook(digests, held, there.sizes, there.clock()) for name, held in there.holdings().items()}
        at_hand = [looks[name] for name in fit.with_room if name in looks]
        moments = [said.ready_in_s for said in at_hand if said.ready_in_s is not None]
        assert prospect.warm == tuple(sorted(name for name in fit.with_room if name in looks and looks[name].warm))
        assert prospect.failed == (bool(at_hand) and all(said.failed for said in at_hand))
        assert prospect.ready_in_s == min(moments, default=None)
        if fit.with_room:
            look.assume(sorted(fit.with_room)[0], one)  # the next one finds less room
