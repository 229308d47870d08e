"""What stands between this machine and a good stage: probes that look, judgement that says what to do. Changes nothing."""
