"""The files of a Triton model repository, which `recipes` writes next to an ONNX model."""

README = """\
# <<name>> in Triton

`triton/` is a model repository: `<<name>>` is the ONNX model, which takes ids; `<<name>>_text` tokenizes in Triton's
Python backend with the `tokenizer.json` next to its program; `<<name>>_ensemble` chains the two and takes strings. It
does not contain an embedder's prompts: prepend them to the texts.

The Python backend needs `tokenizers`, which the image lacks:

```sh
docker run --rm -p 8000:8000 -p 8001:8001 -v "$PWD/triton:/models" nvcr.io/nvidia/tritonserver:<version>-py3 \\
  sh -c "pip install tokenizers && tritonserver --model-repository=/models"
curl localhost:8000/v2/models/<<name>>_ensemble/infer -d \\
  '{"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1, 1], "data": ["Where is my card?"]}]}'
```

A row of two texts has the shape `[1, 2]`. Triton merges requests to the model only if their rows have the same length.
The files were checked against Triton's documented formats, but Triton has not run them.
"""

_MODEL = """\
name: "<<name>>"
platform: "onnxruntime_onnx"
max_batch_size: 32
<<inputs>>
<<outputs>>
dynamic_batching { max_queue_delay_microseconds: 2000 }
"""

_TEXT = """\
name: "<<name>>_text"
backend: "python"
max_batch_size: 32
input { name: "text" data_type: TYPE_STRING dims: [ <<texts>> ] }
<<ids>>
instance_group { count: 1 kind: KIND_CPU }
"""

_ENSEMBLE = """\
name: "<<name>>_ensemble"
platform: "ensemble"
max_batch_size: 32
input { name: "text" data_type: TYPE_STRING dims: [ <<texts>> ] }
<<outputs>>
ensemble_scheduling {
  step {
    model_name: "<<name>>_text"
    model_version: -1
    input_map { key: "text" value: "text" }
<<from_text>>
  }
  step {
    model_name: "<<name>>"
    model_version: -1
<<to_model>>
<<from_model>>
  }
}
"""

_PROGRAM = '''\
"""Tokenizes for <<name>>, in Triton's Python backend."""

import pathlib

import numpy as np
import tokenizers
import triton_python_backend_utils as pb_utils

COLUMNS = <<columns>>
TOWERS = <<towers>>  # whether the texts of a row go through the model one by one


class TritonPythonModel:
    """What Triton calls."""

    def initialize(self, args):
        folder = pathlib.Path(args["model_repository"], args["model_version"])
        self.tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.encode_special_tokens = <<special>>  # special tokens that a user types stay text

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        rows = pb_utils.get_input_tensor_by_name(request, "text").as_numpy()
        rows = [[text.decode(errors="replace") for text in row] for row in rows]
        if TOWERS:
            texts = [text for row in rows for text in row]
        else:
            texts = [tuple(row) if len(row) == 2 else row[0] for row in rows]
        encodings = self.tokenizer.encode_batch(texts)
        tensors = []
        for name, column in COLUMNS.items():
            ids = np.array([getattr(encoding, column) for encoding in encodings], "int32")
            ids = ids.reshape(len(rows), 2, -1) if TOWERS else ids
            tensors.append(pb_utils.Tensor(name, ids))
        return pb_utils.InferenceResponse(tensors)
'''

FILES = {
    "NAME/config.pbtxt": _MODEL,
    "NAME_text/config.pbtxt": _TEXT,
    "NAME_text/1/model.py": _PROGRAM,
    "NAME_ensemble/config.pbtxt": _ENSEMBLE,
    "NAME_ensemble/1/.keep": "Triton requires a folder for each version.\n",
}
