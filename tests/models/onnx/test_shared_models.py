"""Real files from public repositories, where they are at hand."""

from pathlib import Path

import numpy as np
import pytest
import torch

from cake_cli.errors import ModelFileError
from cake_cli.models.onnx import open_onnx
from cake_cli.models.onnx.comparison import in_file_terms, relative_difference

FOLDER = Path(__file__).parents[4] / "shared" / "models"

LOADS = {
    "zoo_mnist_12": ((1, 28, 28), "logits", 10),
    "whats_the_number": ((1, 28, 28), "logits", 10),
    "makora_mnist_cnn": ((1, 28, 28), "log-probs", 10),
    "vnn_mnist_net_256x2": ((784, 1), "logits", 10),
    "vnn_verivital_convnet_maxpool": ((1, 28, 28), "logits", 10),
    "fashion_edwin": ((1, 28, 28), "log-probs", 10),
    "anshaj_cifar10_keras": ((32, 32, 3), "probs", 10),
    "antispoof_bin_128": ((3, 128, 128), "logits", 2),
    "skl_logreg_iris": ((4,), "probs", 3),
    "tract_keras_tf2_example": ((100,), "sigmoid", 1),
}

REFUSED = {
    "skl_rf_iris": "tree ensemble (TreeEnsembleClassifier",
    "edgeopt_mobilenetv2_int8": "quantised to int8",
    "kakao_mobilenetv2_cifar10": "mobilenetv2_cifar10.onnx.data, which is not beside it",
    "akinobu_mnist_tf2onnx": "training graph: labels ('y_:0')",
}


def shared(name):
    path = FOLDER / f"{name}.onnx"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    return path


@pytest.mark.parametrize("name", LOADS)
def test_a_classifier_loads_right_at_any_batch(name):
    opened = open_onnx(shared(name))
    shape, kind, classes = LOADS[name]
    assert (opened.input_shape, opened.output_kind) == (shape, kind)
    x = torch.rand(5, *shape, generator=torch.Generator().manual_seed(0), requires_grad=True)
    logits = opened.module(x)
    assert logits.shape == (5, classes)
    expected = opened.reference(x.detach().numpy())
    assert relative_difference(in_file_terms(logits.detach().numpy(), kind), expected) < 1e-4
    (slope,) = torch.autograd.grad(logits.square().sum(), x)
    assert np.isfinite(slope.numpy()).all()
    if name != "vnn_mnist_net_256x2":  # its gradient is zero on most uniform noise
        assert slope.abs().amax(dim=tuple(range(1, x.dim()))).gt(0).all()


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_teacher_is_refused_with_the_reason(name):
    path = shared(name)
    with pytest.raises(ModelFileError) as caught:
        open_onnx(path)
    assert REFUSED[name] in caught.value.what
    assert caught.value.fix
