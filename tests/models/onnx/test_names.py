"""Names of classes, from metadata and from the operators that label."""

import json

import numpy as np
import pytest

from cake_cli.models.loading import load_classifier
from tests.models.onnx.files import INT64, draw, linear, model, node, port, save

ML = "ai.onnx.ml"


def names_of(proto, folder):
    return load_classifier(save(proto, folder)).class_names


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("names", "{0: 'cat', 1: 'dog', 2: 'a bird'}"),
        ("id2label", '{"0": "cat", "1": "dog", "2": "a bird"}'),
        ("classes", '["cat", "dog", "a bird"]'),
        ("cake.class_names", '["cat", "dog", "a bird"]'),
    ],
)
def test_metadata(tmp_path, key, text):
    proto = linear()
    entry = proto.metadata_props.add()
    entry.key, entry.value = key, text
    assert names_of(proto, tmp_path) == ("cat", "dog", "a bird")


@pytest.mark.parametrize(
    "text", ["cat, dog", "['cat', 'dog']", "{0: 'cat', 2: 'dog', 3: 'bird'}", "__import__('os').abort()", "[[1]]"]
)
def test_what_is_no_list_of_as_many_names_is_left_alone(tmp_path, text):
    proto = linear()
    entry = proto.metadata_props.add()
    entry.key, entry.value = "names", text
    assert names_of(proto, tmp_path) is None


def classifier(**labels):
    weights = {"coefficients": draw(12).tolist(), "intercepts": [0.0, 0.1, 0.2]}
    one = node("LinearClassifier", "x", "label y", ML, **weights, **labels)
    return model([one], outputs=[port("label", [None], INT64), port("y", [None, 3])])


def test_labels_of_a_classifier(tmp_path):
    assert names_of(classifier(classlabels_ints=[3, 5, 7]), tmp_path) == ("3", "5", "7")
    assert names_of(classifier(classlabels_ints=[0, 1, 2]), tmp_path) is None
    proto = classifier(classlabels_strings=["b", "a", "c"])
    proto.graph.output[0].type.tensor_type.elem_type = 8
    assert names_of(proto, tmp_path) == ("b", "a", "c")


def test_labels_that_are_looked_up(tmp_path):
    nodes = [node("MatMul", "x w", "y"), node("ArgMax", "y", "i", axis=1),
             node("ArrayFeatureExtractor", "classes i", "label", ML)]  # fmt: skip
    weights = {"w": draw(4, 3), "classes": np.array(["red", "green", "blue"], dtype=object)}
    proto = model(nodes, weights, outputs=[port("label", [1, None], 8), port("y", [None, 3])])
    assert json.dumps(names_of(proto, tmp_path)) == '["red", "green", "blue"]'
