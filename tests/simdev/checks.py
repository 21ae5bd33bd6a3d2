"""What the simulated device must do, one function each; run together in a process of a vendor's own.

SIMDEV_VENDOR=sima python -m tests.simdev.checks
"""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import warnings

import pytest
import torch
from tests.simdev import plugin
from tests.simdev.together import tell

DEVICE = torch.device(plugin.VENDOR, 0)


def a_product_and_its_gradient_are_those_of_the_processor() -> None:
    x, weight = torch.randn(5, 7), torch.randn(7, 3)
    results = []
    for device in (torch.device("cpu"), DEVICE):
        leaf = weight.detach().clone().to(device).requires_grad_()
        loss = (x.to(device) @ leaf).relu().square().sum()
        loss.backward()
        assert leaf.grad is not None
        results.append((loss.detach().cpu(), leaf.grad.cpu()))
    torch.testing.assert_close(results[0], results[1])


def fresh_memory_holds_nan() -> None:
    assert torch.empty(8, device=DEVICE).isnan().all()


def the_host_cannot_read_its_memory() -> None:
    address = torch.ones(4, device=DEVICE).data_ptr()
    child = os.fork()
    if child == 0:
        ctypes.string_at(address, 4)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGSEGV


def tensors_of_two_places_do_not_mix() -> None:
    with pytest.raises(RuntimeError, match="same device"):
        torch.ones(4, device=DEVICE) + torch.ones(4)
    with pytest.raises(RuntimeError, match="same device"):
        torch.ones(4, device=DEVICE) + torch.ones(4, device=torch.device(plugin.VENDOR, 1))


def there_is_an_end_to_its_memory() -> None:
    before = torch.accelerator.memory_allocated()
    with pytest.raises(torch.OutOfMemoryError, match="out of memory"):
        torch.empty(1 << 40, dtype=torch.uint8, device=DEVICE)
    taken = torch.empty(1 << 20, dtype=torch.uint8, device=DEVICE)
    assert torch.accelerator.memory_allocated() == before + (1 << 20)
    del taken
    gc.collect()
    assert torch.accelerator.memory_allocated() == before


def a_copy_to_the_host_lands_late() -> None:
    host = torch.zeros(4).pin_memory()
    host.copy_(torch.ones(4, device=DEVICE), non_blocking=True)
    assert host.tolist() == [0, 0, 0, 0], "read before anybody has waited"
    torch.accelerator.synchronize()
    assert host.tolist() == [1, 1, 1, 1]


def a_buffer_of_the_host_that_is_used_again_too_early_shows() -> None:
    host = torch.ones(4).pin_memory()
    on_device = torch.empty(4, device=DEVICE)
    on_device.copy_(host, non_blocking=True)
    host.fill_(7)
    assert on_device.cpu().tolist() == [7, 7, 7, 7]


def a_missing_wait_between_two_streams_shows() -> None:
    one = torch.ones(4, device=DEVICE)
    torch.accelerator.synchronize()
    stream = torch.Stream(device=DEVICE)
    with stream:
        three = one * 3
    assert (three + 0).isnan().all(), "nobody has waited for the other stream"
    torch.accelerator.current_stream().wait_event(stream.record_event())
    assert (three + 0).cpu().tolist() == [3, 3, 3, 3]


def memory_that_another_stream_still_reads_must_be_told_of() -> None:
    found = {}
    for is_told in (False, True):
        stream = torch.Stream(device=DEVICE)
        values = torch.ones(1 << 16, device=DEVICE)
        torch.accelerator.synchronize()
        target = torch.empty(1 << 16, device=DEVICE)
        with stream:
            target.copy_(values, non_blocking=True)
        if is_told:
            values.record_stream(stream)
        del values
        torch.zeros(1 << 16, device=DEVICE)  # takes the place, if it is free
        torch.accelerator.synchronize()
        found[is_told] = target.cpu().eq(1).all().item()
    assert found == {False: False, True: True}


def an_operator_that_the_vendor_lacks_is_refused_by_name() -> None:
    with pytest.raises(NotImplementedError, match="no operator aten::erfinv"):
        torch.ones(4, device=DEVICE).erfinv()


def an_operator_that_falls_back_to_the_host_says_so() -> None:
    plugin.module.forget_counts()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        torch.ones(4, device=DEVICE).sinh()
    assert any("runs on the host" in str(warning.message) for warning in told)
    assert plugin.module.counts()["by host"] == 1


def random_numbers_follow_from_seed_and_offset() -> None:
    module = torch.get_device_module(DEVICE)
    module.manual_seed(3)
    first = torch.rand(8, device=DEVICE).cpu()
    state = module.get_rng_state()
    second = torch.rand(8, device=DEVICE).cpu()
    module.set_rng_state(state)
    assert torch.equal(second, torch.rand(8, device=DEVICE).cpu())
    module.manual_seed(3)
    assert torch.equal(first, torch.rand(8, device=DEVICE).cpu()) and not torch.equal(first, second)


def waits_of_the_host_are_counted_by_place() -> None:
    values = torch.ones(4, device=DEVICE)
    with plugin.HostWaits(root="/simdev/") as waits:
        values.sum().item()
        values.cpu()
    assert waits.places == {
        "checks.py:waits_of_the_host_are_counted_by_place item": 1,
        "checks.py:waits_of_the_host_are_counted_by_place copy to host": 1,
    }


CHECKS = (
    a_product_and_its_gradient_are_those_of_the_processor,
    fresh_memory_holds_nan,
    the_host_cannot_read_its_memory,
    tensors_of_two_places_do_not_mix,
    there_is_an_end_to_its_memory,
    a_copy_to_the_host_lands_late,
    a_buffer_of_the_host_that_is_used_again_too_early_shows,
    a_missing_wait_between_two_streams_shows,
    memory_that_another_stream_still_reads_must_be_told_of,
    an_operator_that_the_vendor_lacks_is_refused_by_name,
    an_operator_that_falls_back_to_the_host_says_so,
    random_numbers_follow_from_seed_and_offset,
    waits_of_the_host_are_counted_by_place,
)


if __name__ == "__main__":
    tell(CHECKS)
