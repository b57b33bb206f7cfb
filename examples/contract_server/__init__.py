"""A contract server: it imitates what TF Serving promises clients and demands of a SavedModel. It isn't TF Serving.

The stock server is a binary that no package index holds, and its image needs Docker; this stands in for it in
`examples/serve.py` and in the tests, so that an export is loaded, warmed up, batched, rolled forward and asked over
HTTP and gRPC as it will be. It knows TensorFlow, TF Text and the published protos, nothing of tfxfer. What it does
and refuses follows tensorflow/serving's sources: `json_tensor.cc`, `http_rest_api_util.cc`, `predict_util.cc`,
`classifier.cc`, `regressor.cc`, `batching_session.cc`, `saved_model_warmup_util.cc`,
`file_system_storage_path_source.cc`, `server_core.cc`.

    python examples/contract_server --model_name=sts --model_base_path=serving/sts --rest_api_port=8501 --port=8500

The same: version folders and policies, labels, old versions unloaded after the new one answers; warm-up files and the
three ways in which they fail a load; requests of one signature merged along dimension 0 and parted again, large ones
split; REST in rows and columns, base64, gzip, classify, regress, status, metadata; error codes; PredictionService with
MultiInference, and ModelService; a count of graph runs and of requests for Prometheus, where the monitoring
configuration asks for it. Its answers were compared with those of TF Serving's own C++ core, of December 2025.

**With batching, a request without rows is never answered**, as there: the scheduler makes no batch of it, and the
request keeps its REST thread, until none is left for any model. `--empty_requests=answer` answers it instead.

Not the same: speed (it is Python); requests by HTTP need a `Content-Length`; a version that failed to load is not tried
again; no TLS, no timeouts, no `pad_variable_length_inputs`.
"""
