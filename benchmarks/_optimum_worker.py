"""sentence-transformers on OpenVINO or ONNX Runtime, by way of Optimum. Started by `engines.py`.

Optimum's parts for the two ask for different versions of transformers, so each has its environment. 8-bit models are
made as sentence-transformers makes them: for OpenVINO by NNCF, calibrated on texts, for ONNX Runtime dynamically.
"""

import importlib.metadata
import pathlib
import shutil
import tempfile

import numpy as np
from sentence_transformers import SentenceTransformer

from benchmarks._harness import Requests

DISTRIBUTIONS = {
    "openvino": ("sentence-transformers", "transformers", "torch", "optimum-intel", "openvino", "nncf"),
    "onnx": ("sentence-transformers", "transformers", "torch", "optimum-onnx", "onnxruntime"),
}


def openvino_models(setup, folder):
    """Returns models with the products' dtype that OpenVINO prefers, in float32, and in 8 bits, and their megabytes."""
    import nncf
    import openvino

    def load(**options):
        config = {"INFERENCE_NUM_THREADS": setup["threads"], **options}
        return SentenceTransformer(str(folder), device="cpu", backend="openvino", model_kwargs={"ov_config": config})

    models = {"openvino": load(), "openvino float32": load(INFERENCE_PRECISION_HINT="f32"), "openvino int8": load()}
    eight = models["openvino int8"]
    inner = eight[0].auto_model
    names = {port.get_any_name() for port in inner.model.inputs}
    rows = [
        {name: value.numpy() for name, value in eight.tokenize([text]).items() if name in names}
        for text in setup["calibration"]
    ]
    inner.model = nncf.quantize(
        inner.model, nncf.Dataset(rows), model_type=nncf.ModelType.TRANSFORMER, subset_size=len(rows)
    )
    inner.request = None
    inner.compile()
    openvino.save_model(inner.model, folder / "int8.xml", compress_to_fp16=False)
    sizes = {
        "openvino int8": megabytes(folder / "int8.bin"),
        "openvino float32": megabytes(folder / "model.safetensors"),
    }
    return models, sizes


def onnx_models(setup, folder):
    """Returns models in float32 and in 8 bits, and their megabytes."""
    import onnxruntime
    from sentence_transformers import export_dynamic_quantized_onnx_model

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = setup["threads"]
    options.inter_op_num_threads = 1

    def load(**names):
        arguments = {"session_options": options, "provider": "CPUExecutionProvider", **names}
        return SentenceTransformer(str(folder), device="cpu", backend="onnx", model_kwargs=arguments)

    plain = load()
    plain.save_pretrained(str(folder))
    export_dynamic_quantized_onnx_model(plain, "avx512_vnni", str(folder))
    eight = "onnx/model_qint8_avx512_vnni.onnx"
    sizes = {"onnx": megabytes(folder / "onnx" / "model.onnx"), "onnx int8": megabytes(folder / eight)}
    return {"onnx": plain, "onnx int8": load(file_name=eight)}, sizes


def megabytes(path):
    """Returns the size of a file."""
    return round(path.stat().st_size / 1e6, 1)


def encoder(setup, requests):
    """Answers requests to encode texts in one of the backend's variants."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(shutil.copytree(setup["weights"], pathlib.Path(temporary) / "model"))
        models, sizes = {"openvino": openvino_models, "onnx": onnx_models}[setup["backend"]](setup, folder)
    for model in models.values():
        model.max_seq_length = setup["sequence_length"]

    def work(request):
        size = request.get("batch_size", setup["batch_size"])
        vectors = models[request["variant"]].encode(request["texts"], batch_size=size, show_progress_bar=False)
        if "save" in request:
            np.save(request["save"], vectors)
        return {"rows": len(request["texts"])}

    versions = {name: importlib.metadata.version(name) for name in DISTRIBUTIONS[setup["backend"]]}
    requests.send(versions=versions, sizes=sizes)
    requests.serve(work)


def main():
    """Serves the workload."""
    requests = Requests()
    encoder(requests.setup(), requests)


if __name__ == "__main__":
    main()
