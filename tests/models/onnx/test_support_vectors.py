"""SVMClassifier against onnxruntime: kernels, pairs of classes, probabilities, and the file's own labels."""

import numpy as np
import onnxruntime
import pytest
import torch

from cake_cli.models.onnx import open_onnx
from tests.models.onnx.files import INT64, draw, model, node, port, save

ML = "ai.onnx.ml"
FEATURES = 4


def machine(classes, *, kernel="RBF", probabilities=False, transform="NONE", linear=False):
    """A file with random support vectors, three or more of each class."""
    counts = [] if linear else [3 + index for index in range(classes)]
    pairs = classes * (classes - 1) // 2
    weights = classes * FEATURES if linear else (classes - 1) * sum(counts)
    fields = {
        "classlabels_ints": list(range(classes)),
        "coefficients": draw(weights, seed=classes).tolist(),
        "kernel_type": kernel,
        "kernel_params": [0.3, 0.2, 3.0],
        "rho": (draw(1 if linear else pairs, seed=1) * 0.3).tolist(),
        "post_transform": transform,
    }
    if not linear:
        fields |= {"vectors_per_class": counts, "support_vectors": draw(sum(counts) * FEATURES, seed=2).tolist()}
    if probabilities:
        fields |= {"prob_a": (-1 - np.abs(draw(pairs, seed=3))).tolist(), "prob_b": (draw(pairs, seed=4) / 4).tolist()}
    outputs = [port("label", [None], INT64), port("y", [None, None])]
    return model([node("SVMClassifier", "x", "label y", ML, **fields)], outputs=outputs)


def labels(path, x):
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(["label"], {"x": x})[0]


@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("kernel", ["LINEAR", "POLY", "RBF", "SIGMOID"])
@pytest.mark.parametrize("probabilities", [False, True])
def test_scores_follow_the_labels_and_have_a_gradient(tmp_path, classes, kernel, probabilities):
    path = save(machine(classes, kernel=kernel, probabilities=probabilities), tmp_path)
    opened = open_onnx(path)
    x = draw(40, FEATURES, seed=7)
    rows = torch.from_numpy(x).requires_grad_()
    logits = opened.module(rows)
    assert logits.shape == (40, classes)
    assert opened.output_kind == ("probs" if probabilities else "logits")
    gradient = torch.autograd.grad(logits.softmax(1)[:, 0].sum(), rows)[0]
    assert gradient.isfinite().all()
    assert gradient.any()
    found = logits.softmax(1) if probabilities else logits
    assert np.allclose(found.detach().numpy(), opened.reference(x), atol=1e-5)
    if not probabilities:  # with them, libsvm's labels are still those of the votes
        top = logits.topk(2, 1).values
        clear = (top[:, 0] - top[:, 1] > (0 if classes == 2 else 2 / 3)).numpy()  # where votes are not tied
        assert clear.sum() >= 8
        assert (logits.argmax(1).numpy() == labels(path, x))[clear].all()
        assert opened.mends[-1] == f"its scores of pairs of classes brought to one for each of {classes}"


@pytest.mark.parametrize("transform", ["NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO"])
@pytest.mark.parametrize("classes", [2, 3])
def test_a_linear_machine_without_support_vectors(tmp_path, classes, transform):
    opened = open_onnx(save(machine(classes, linear=True, transform=transform), tmp_path))
    x = draw(9, FEATURES, seed=7)
    logits = opened.module(torch.from_numpy(x))
    found = logits.softmax(1) if opened.output_kind == "probs" else logits
    assert np.allclose(found.numpy(), opened.reference(x), atol=1e-5)


def test_weights_move_and_change_precision_with_the_module(tmp_path):
    module = open_onnx(save(machine(3), tmp_path)).module
    assert sum(tensor.numel() for tensor in module.state_dict().values()) > 3 * FEATURES
    assert module.double()(torch.zeros(2, FEATURES, dtype=torch.float64)).dtype is torch.float64


def test_without_a_batch_of_its_own_nothing_is_lost(tmp_path):
    module = open_onnx(save(machine(3), tmp_path)).module
    rows = torch.from_numpy(draw(5, FEATURES))
    assert torch.allclose(module(rows)[2], module(rows[2:3])[0], atol=1e-6)
