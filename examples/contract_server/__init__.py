"""A test server: it imitates what TF Serving promises clients and requires of a SavedModel. It is not TF Serving.

The stock server is a binary that no package index holds, and its image needs Docker. This server replaces it in
`examples/serve.py` and in the tests, so that an export is loaded, warmed up, batched, rolled forward and asked over
HTTP and gRPC as in production. It uses TensorFlow, TF Text and the published protos, but not tfxfer. What it does and
rejects follows tensorflow/serving's sources: `json_tensor.cc`, `http_rest_api_util.cc`, `predict_util.cc`,
`classifier.cc`, `regressor.cc`, `batching_session.cc`, `saved_model_warmup_util.cc`,
`file_system_storage_path_source.cc`, `server_core.cc`.

    python examples/contract_server --model_name=sts --model_base_path=serving/sts --rest_api_port=8501 --port=8500

The same as in TF Serving: version directories and policies; labels; old versions, which are unloaded after the new one
answers; warm-up files and the three ways in which they fail a load; requests of one signature, which are merged along
dimension 0 and separated again, and large ones, which are split; REST in rows and columns, base64, gzip, classify,
regress, status, metadata; error codes; PredictionService with MultiInference, and ModelService; counts of graph runs
and requests for Prometheus, if the monitoring configuration enables them. Its answers were compared with those of TF
Serving's own C++ core, from December 2025.

**With batching, a request without rows is never answered**, as in TF Serving: the scheduler forms no batch of it, and
the request keeps its REST thread, until no thread is left for any model. `--empty_requests=answer` answers it instead.

Different: speed (it is Python); HTTP requests need a `Content-Length`; a version that failed to load is not retried; no
TLS, no timeouts, no `pad_variable_length_inputs`.
"""
