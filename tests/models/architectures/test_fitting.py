"""What an architecture costs, and what is said where it does not fit."""

from __future__ import annotations

import pytest
import torch

from cake_cli.errors import UsageError
from cake_cli.models.architectures import build_student, does_not_fit, measure_student, why_not
from cake_cli.models.architectures.fitting import smallest_side
from cake_cli.models.counting import Size, parameters


def refusal(name: str, shape: tuple[int, ...]) -> UsageError:
    with pytest.raises(UsageError) as caught:
        measure_student(name, shape, 10)
    return does_not_fit(name, shape, 10, caught.value)


@pytest.mark.parametrize("name", ["cnn", "mlp", "resnet18", "vit", "wrn-16-1", "squeezenet1_1"])
def test_the_size_is_that_of_the_network(name: str) -> None:
    network = build_student(name, (1, 16, 16), 5)
    size = measure_student(name, (1, 16, 16), 5)
    stored = sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values())
    assert (size.parameters, size.bytes) == (parameters(network), stored)


def test_a_linear_layer_costs_its_weights() -> None:
    assert measure_student("linear", (2, 3, 3), 5) == Size(parameters=95, multiply_adds=90, bytes=380)


def test_measuring_draws_nothing() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    measure_student("cnn", (1, 8, 8), 3)
    measure_student("resnet18", (1, 8, 8), 3)
    assert before.equal(torch.get_rng_state())


def test_a_network_without_end_takes_no_memory() -> None:
    assert measure_student("mlp:65536,65536,65536", (3, 224, 224), 1000).parameters > 10**10


def test_too_small_an_image_names_the_smallest_and_what_fits() -> None:
    fault = refusal("vgg11", (1, 8, 8))
    assert fault.what == "vgg11 cannot take inputs of 1x8x8: it takes 32x32 and larger"
    assert str(fault.fix).startswith("--student with one of cnn, resnet4, resnet18, wrn-16-2; `cake students")
    assert smallest_side("inception_v3", (1, 8, 8), 10) == 19
    assert smallest_side("cnn", (1, 8, 8), 10) == 1


def test_relatives_come_first() -> None:
    assert "--student with one of vit_b_32, vit_b_16, cnn, resnet4;" in str(refusal("vit_h_14", (3, 32, 32)).fix)
    assert "--student with one of cnn, resnet4" in str(refusal("vit_b_16", (1, 28, 28)).fix), "not the huge vit_h_14"
    assert "lenet" not in str(refusal("lenet5", (1, 8, 8)).fix)


def test_a_patch_that_fits_comes_before_other_networks() -> None:
    fault = refusal("vit:patch=5", (3, 32, 32))
    assert "does not divide" in fault.what
    assert str(fault.fix).startswith("--student vit:patch=4; or --student with one of cnn, ")


def test_vectors_take_mlp_and_linear() -> None:
    fault = refusal("resnet18", (12,))
    assert (fault.what, fault.fix) == (
        "resnet18 is for images, not for vectors of 12",
        "--student mlp or --student linear",
    )


def test_why_not_says_no_size_where_size_is_not_the_matter() -> None:
    with pytest.raises(UsageError) as caught:
        measure_student("maxvit_t", (1, 28, 28), 10)
    assert "such as 32x32 or 48x48, not 1x28x28" in why_not("maxvit_t", (1, 28, 28), 10, caught.value)
