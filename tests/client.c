/* Asks a SavedModel through TensorFlow's C API, as a compiled client does: no Python in the process.

   client LIBRARY,LIBRARY,... FOLDER OUTPUT_OPERATION OUTPUT_INDEX [INPUT_OPERATION TEXT...] [-- INPUT_OPERATION TEXT...]

   The libraries register TF Text's operations. Prints the floats of the output, a row a line. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tensorflow/c/c_api.h"
#include "tensorflow/c/tf_tstring.h"

static TF_Status* status;

static void check(const char* what) {
  if (TF_GetCode(status) == TF_OK) return;
  fprintf(stderr, "%s: %s\n", what, TF_Message(status));
  exit(1);
}

static TF_Output output_of(TF_Graph* graph, const char* name, int index) {
  TF_Output found = {TF_GraphOperationByName(graph, name), index};
  if (found.oper) return found;
  fprintf(stderr, "no operation %s\n", name);
  exit(1);
}

static TF_Tensor* strings(char** texts, int count) {
  int64_t shape[] = {count};
  TF_Tensor* tensor = TF_AllocateTensor(TF_STRING, shape, 1, count * sizeof(TF_TString));
  TF_TString* values = TF_TensorData(tensor);
  for (int i = 0; i < count; ++i) {
    TF_TString_Init(&values[i]);
    TF_TString_Copy(&values[i], texts[i], strlen(texts[i]));
  }
  return tensor;
}

int main(int argc, char** argv) {
  TF_Output inputs[4];
  TF_Tensor* values[4];
  int given = 0;
  if (argc < 6) return 2;
  status = TF_NewStatus();
  for (char* library = strtok(argv[1], ","); library; library = strtok(NULL, ",")) {
    TF_LoadLibrary(library, status);
    check(library);
  }
  const char* tags[] = {"serve"};
  TF_Graph* graph = TF_NewGraph();
  TF_SessionOptions* options = TF_NewSessionOptions();
  TF_Session* session = TF_LoadSessionFromSavedModel(options, NULL, argv[2], tags, 1, graph, NULL, status);
  check("load");
  for (int i = 5, count; i < argc && given < 4; i += count + 2) {
    for (count = 0; i + 1 + count < argc && strcmp(argv[i + 1 + count], "--"); ++count) {
    }
    inputs[given] = output_of(graph, argv[i], 0);
    values[given++] = strings(argv + i + 1, count);
  }
  TF_Output wanted = output_of(graph, argv[3], atoi(argv[4]));
  TF_Tensor* answer = NULL;
  TF_SessionRun(session, NULL, inputs, values, given, &wanted, &answer, 1, NULL, 0, NULL, status);
  check("run");
  if (TF_TensorType(answer) != TF_FLOAT) return 3;
  const float* numbers = TF_TensorData(answer);
  const int64_t rows = TF_Dim(answer, 0), all = TF_TensorElementCount(answer);
  for (int64_t i = 0; i < all; ++i) printf("%.9g%c", numbers[i], (i + 1) % (all / rows) ? ' ' : '\n');
  TF_CloseSession(session, status);
  TF_DeleteSession(session, status);
  return 0;
}
