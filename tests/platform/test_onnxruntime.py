"""What the session leans on inside ONNX Runtime's Python package."""

import inspect

import onnxruntime as ort
from onnxruntime.capi import onnxruntime_inference_collection as collection


def test_the_wrapper_ends_in_the_call_that_we_make_directly() -> None:
    source = inspect.getsource(collection.Session.run)
    assert "return self._sess.run(output_names, input_feed, run_options)" in source


def test_fallback_can_be_switched_off() -> None:
    assert "enable_fallback" in inspect.getsource(ort.InferenceSession.__init__)


def test_telemetry_can_be_switched_off() -> None:
    ort.disable_telemetry_events()
