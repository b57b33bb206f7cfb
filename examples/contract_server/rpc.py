"""The gRPC services, built on the published protos."""

import concurrent.futures
import logging

import grpc
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    inference_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)

from contract_server import calls, errors, rest

LOG = logging.getLogger("contract_server")
CODES = {code.value[0]: code for code in grpc.StatusCode}


class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Predict, Classify, Regress, MultiInference and GetModelMetadata."""

    def __init__(self, core):
        self._core = core

    def Predict(self, request, context):
        return self._answer(request, context, calls.predict, predict_pb2.PredictResponse)

    def Classify(self, request, context):
        return self._answer(request, context, calls.classify, classification_pb2.ClassificationResponse)

    def Regress(self, request, context):
        return self._answer(request, context, calls.regress, regression_pb2.RegressionResponse)

    def GetModelMetadata(self, request, context):
        def tell():
            if list(request.metadata_field) != ["signature_def"]:
                raise errors.invalid("GetModelMetadataRequest must specify the metadata_field signature_def alone")
            number, version = self._core.get(request.model_spec)
            with version.used():
                return rest.metadata(request.model_spec.name, number, version)

        return guarded(context, tell, get_model_metadata_pb2.GetModelMetadataResponse)

    def MultiInference(self, request, context):
        def tell():
            if not request.tasks:
                raise errors.invalid("Inference request should have at least one task.")
            number, version = self._core.get(request.tasks[0].model_spec)
            with version.used():
                response = calls.multi_inference(version, request)
            for result in response.results:
                result.model_spec.version.value = number
            return response

        return guarded(context, tell, inference_pb2.MultiInferenceResponse)

    def _answer(self, request, context, call, kind):
        def act():
            spec = request.model_spec
            try:
                number, version = self._core.get(spec)
                with version.used():
                    response = call(version, request)
            except Exception as error:
                self._core.count(spec.name, errors.of(error))
                raise
            self._core.count(spec.name)
            response.model_spec.name = spec.name
            response.model_spec.signature_name = spec.signature_name or calls.DEFAULT
            response.model_spec.version.value = number
            return response

        return guarded(context, act, kind)


class ModelService(model_service_pb2_grpc.ModelServiceServicer):
    """Reports the states of versions and applies a new configuration."""

    def __init__(self, core):
        self._core = core

    def GetModelStatus(self, request, context):
        return guarded(context, lambda: self._core.status(request.model_spec), None)

    def HandleReloadConfigRequest(self, request, context):
        response = model_management_pb2.ReloadConfigResponse()
        try:
            self._core.update(request.config)
        except Exception as error:
            failed = errors.of(error)
            response.status.error_code, response.status.error_message = failed.code, failed.message
        return response


def guarded(context, act, kind):
    """Returns the result of `act`; turns an error into a status, and logs it if it is a bug of this server."""
    try:
        return act()
    except Exception as error:
        failed = errors.of(error)
        if failed.code == errors.INTERNAL:
            LOG.exception("a call failed")
        context.set_code(CODES.get(failed.code, grpc.StatusCode.UNKNOWN))
        context.set_details(failed.message[:2000])
        return kind() if kind else None


def start(core, port, threads=64):
    """Answers in up to `threads` separate threads; returns the server, which has `stop`."""
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(threads), options=[*options, ("grpc.so_reuseport", 0)])
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(PredictionService(core), server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(ModelService(core), server)
    if not server.add_insecure_port(f"localhost:{port}"):
        raise OSError(f"port {port} is taken")
    server.start()
    return server
