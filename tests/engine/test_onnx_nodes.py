"""Converters against the node tests that the onnx package makes: exact inputs and outputs.

Every test of an operator set from 11 on either gives the outputs that it expects, or is named in
the table below with the reason why it does not.
"""

import warnings
from fnmatch import fnmatch
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, TensorProto, numpy_helper
from torch import Tensor

from engine.errors import EngineError
from engine.job import Job
from engine.sources.onnx_files.checking import OLDEST_OPSET, OnnxFile, opset_of, taken_tensors
from engine.sources.onnx_files.conversion import assembled, check_operators
from engine.sources.onnx_files.converters.call import tensor_of

_WIDE = "torch does not compute so with unsigned integers wider than a byte"

# Tests by name, and why Secateur does not pass them.
NOT_SUPPORTED = {
    # What no layer can stand for.
    "test_loop*": "control flow",
    "test_if_*": "control flow over sequences and optional values",
    "test_scan*": "control flow",
    "test_linear_attention*": "defined by control flow",
    "test_range_*_delta_expanded": "control flow",
    "test_sequence*": "sequences",
    "test_split_to_sequence*": "sequences",
    "test_identity_sequence": "sequences",
    "test_identity_opt": "optional values",
    "test_optional*": "optional values",
    "test_*string*": "text",
    "test_regex*": "text",
    "test_strnorm*": "text",
    "test_tfidf*": "text",
    "test_image_decoder*": "compressed pictures",
    "test_bernoulli*": "random numbers",
    "test_*dropout*mask*": "only what inference needs",
    "test_training_dropout*": "only what inference needs",
    "test_batchnorm_*_training_mode": "only what inference needs",
    "test_nonmaxsuppression*": "the size of the result depends on the input",
    "test_unique_*": "the size of the result depends on the input",
    # Types.
    "test_add_uint[136]*": _WIDE,
    "test_sub_uint[136]*": _WIDE,
    "test_div_uint[136]*": _WIDE,
    "test_greater_uint[136]*": _WIDE,
    "test_greater_equal_uint[136]*": _WIDE,
    "test_less_uint[136]*": _WIDE,
    "test_less_equal_uint[136]*": _WIDE,
    "test_max_uint[136]*": _WIDE,
    "test_min_uint[136]*": _WIDE,
    "test_mod_uint[136]*": _WIDE,
    "test_bitwise_not_3d": _WIDE,
    "test_*INT2*": "two-bit types",
    "test_*int2*": "two-bit types",
    "test_*_to_*INT4*": "casts to four bits, which would have to wrap around",
    "test_*FLOAT4E2M1*": "a type that torch does not compute with",
    "test_*float4e2m1*": "a type that torch does not compute with",
    "test_*E8M0*": "a type that torch does not compute with",
    "test_*no_saturate*": "torch saturates",
    "test_attention_*bf16*": "rounds in another order than the expected outputs",
    "test_attention_4d_causal_fp16*": "rounds in another order than the expected outputs",
    # Operators without a converter so far.
    "test_dft*": "no converter",
    "test_stft*": "no converter",
    "test_flexattention": "in preview",
    "test_flexattention*[!6]": "in preview",
    "test_flexattention_fp16": "in preview",
    "test_ai_onnx_ml*": "another domain",
    "test_maxunpool*": "no converter",
    "test_melweightmatrix*": "no converter",
    "test_tensorscatter*": "no converter",
    # Forms of operators.
    "test_gru_*": "without linear_before_reset torch has no such layer",
    "test_lstm_with_peepholes": "torch has no such layer",
    "test_roialign_mode_max": "torchvision has no such mode",
    "test_maxpool_with_argmax_2d_precomputed_strides": "indices in column order",
    "test_col2im_5d": "torch folds two dimensions",
    "test_reduce_max_empty_set*": "extremes of nothing",
    "test_reduce_min_empty_set*": "extremes of nothing",
}
AT_LEAST = 1500
"""Tests that must pass, so that a converter that is lost shows."""


def _cases() -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy's, as it computes the expected outputs
        from onnx.backend.test.case.node import collect_testcases

        found = collect_testcases(None)  # type: ignore[arg-type]
    return {
        case.name: case
        for case in found
        if opset_of(case.model, "") >= OLDEST_OPSET and case.data_sets
    }


def _reason(name: str) -> str | None:
    return next((why for pattern, why in NOT_SUPPORTED.items() if fnmatch(name, pattern)), None)


def _tensor(value: Any) -> Tensor:
    if isinstance(value, TensorProto):
        return tensor_of(value)
    if isinstance(value, list) or value is None:
        raise TypeError("no tensor")
    return tensor_of(numpy_helper.from_array(np.asarray(value)))


def _file(model: ModelProto, known: dict[str, TensorProto]) -> OnnxFile:
    light = ModelProto()
    light.CopyFrom(model)
    tensors, learned = taken_tensors(light.graph)
    inputs = tuple(one for one in model.graph.input if one.name not in known)
    return OnnxFile(light, {**tensors, **known}, learned, inputs, "")


def _outputs(case: Any) -> list[Tensor]:
    """What our module gives; inputs that must be known when converting are, the last ones first."""
    given = case.data_sets[0][0]
    names = [one.name for one in case.model.graph.input]
    four_bit = (TensorProto.INT4, TensorProto.UINT4)
    known = {
        one.name: _proto(value, one.name)
        for one, value in zip(case.model.graph.input, given, strict=True)
        if one.type.tensor_type.elem_type in four_bit
    }
    while True:
        file = _file(case.model, known)
        inputs = tuple(
            _tensor(value) for name, value in zip(names, given, strict=True) if name not in known
        )
        try:
            check_operators(file)
            model, _ = assembled(file, inputs, Job())
            with torch.no_grad():
                result = model(*inputs)
            return [result] if isinstance(result, Tensor) else list(result)
        except EngineError as error:
            free = [name for name in names if name not in known]
            if "depend" not in str(error) or not free:
                raise
            known[free[-1]] = _proto(given[names.index(free[-1])], free[-1])


def _proto(value: Any, name: str) -> TensorProto:
    if isinstance(value, TensorProto):
        return value
    return numpy_helper.from_array(np.asarray(value), name)


def _problem(case: Any) -> str | None:
    """Why the case does not pass; None when it does."""
    try:
        wanted = [_tensor(one) for one in case.data_sets[0][1]]
        found = _outputs(case)
    except Exception as error:  # any failure is an answer here
        return f"{type(error).__name__}: {error}"
    for got, one in zip(found, wanted, strict=True):
        if got.shape != one.shape or got.dtype != one.dtype:
            return f"{got.dtype} {tuple(got.shape)} instead of {one.dtype} {tuple(one.shape)}"
        close = np.allclose(
            _numbers(got), _numbers(one), rtol=case.rtol, atol=case.atol, equal_nan=True
        )
        if not close:
            return "other numbers"
    return None


def _numbers(tensor: Tensor) -> Any:
    wide = tensor.dtype.is_floating_point and tensor.dtype is not torch.float64
    return (tensor.float() if wide else tensor).numpy()


@pytest.mark.slow
def test_every_node_test_passes_or_is_named_with_its_reason() -> None:
    problems = {name: _problem(case) for name, case in _cases().items()}
    passed = {name for name, problem in problems.items() if problem is None}
    unexpected = {
        name: problem
        for name, problem in problems.items()
        if problem is not None and _reason(name) is None
    }
    assert unexpected == {}
    wrongly_named = {name for name in passed if _reason(name) is not None}
    assert wrongly_named == set()
    assert len(passed) >= AT_LEAST


def test_newest_opset_is_one_that_the_node_tests_know() -> None:
    assert onnx.defs.onnx_opset_version() >= 23
