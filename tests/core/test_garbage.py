"""What is there is left alone while a run steps, and let go of after it."""

import gc

from jaxllm.core.garbage import settled


def test_what_is_there_is_frozen_inside_alone():
    gc.unfreeze()
    with settled():
        assert gc.get_freeze_count() > 1000
    assert gc.get_freeze_count() == 0


def test_what_a_caller_froze_stays_so():
    gc.freeze()
    with settled():
        pass
    assert gc.get_freeze_count() > 1000
    gc.unfreeze()
