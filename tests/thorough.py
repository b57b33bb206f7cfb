"""Cases that run with the slow tests only, as a neighbour in the default suite shows the same fault.

`conftest.py` marks them `slow`: regular expressions for what follows `tests/` in a test's name.
"""

CASES = [
    # Each family or task has its own case; those left trace the other kinds of blocks and of tasks.
    r"test_backbones\.py::test_a_fresh_process_reloads_the_same_numbers\[jax",
    r"test_families\.py::test_family_classifies_after_a_step_of_training\[deberta_v3",
    r"test_frozen_cache\.py::test_every_family_is_cut_without_a_trace\[(roberta|albert|electra|distil_bert)",
    r"test_frozen_cache\.py::test_training_on_stored_features.*\[(cross-encoder|siamese classifier|embedder)",
    r"test_keras_hub\.py::test_training_above_frozen_layers.*\[CLIP",
    r"test_keras_methods\.py::test_inherited_methods_work_or_refuse_for_every_task\[(multi_label|embedder)",
    r"test_lora\.py::test_adapters_and_head_move_and_nothing_else\[(gpt2|albert|deberta_v3)",
    r"test_peft\.py::test_what_is_written_adds_to_each_matrix.*\[qwen2",
    r"test_resume\.py::test_early_stopping_on_an_evaluation.*\[(regressor|siamese)",
    r"test_tokenizers\.py::test_tokens_added_later_are_found_counted_and_saved\[(modernbert|qwen3|eurobert)",
    # Settings of one mechanism: the pair that differs most stays.
    r"test_callbacks\.py::test_every_few_steps_values_are_in_the_logs_of_the_step\[2",
    r"test_damaged_files\.py::test_wrong_content_of_adapters.*\[(another name|a tensor less|other targets)",
    r"test_data_columns\.py::test_batches_of_every_kind.*\[(text|pair|number|numbers|vector|label|values)\]",
    r"test_export_ids\.py::test_the_readmes_program.*\[(onnx-score|onnx-pairs|onnx-embedder|litert-towers|litert-score)",
    r"test_gate\.py::test_class_weights_go_by_name_or_are_balanced\[(labelled|ids)",
    r"test_heads\.py::test_the_activation_of_scores_is_the_folders\[changes[1235]",
    r"test_keras_methods\.py::test_a_quantized_model_is_exported_cached_and_freed_of_its_optimizer\[int4",
    r"test_keras_methods\.py::test_adapters_on_quantized_weights.*\[(int4-quantized_first|int8-adapters_first)",
    r"test_lora\.py::test_loading_that_fails_leaves_the_model_as_it_was\[(assigning-True|shape-False|adding)",
    r"test_minilm\.py::test_embeddings_equal_the_reference_at_any_batch_size\[300",
    r"test_optimizers_replica\.py::test_a_model_that_was_trained_leaves_no_graph.*\[(Keras's|scaling)",
    r"test_own_task\.py::test_what_lies_above_frozen_layers_trains_to_the_same_weights\[1",
    r"test_resume\.py::test_a_run_killed_twice_ends_as_one_that_was_not\[(accumulation|schedule)",
    r"test_siamese\.py::test_chunks_give_the_vectors_and_gradients_of_one_pass\[(1|16)\]",
    r"test_unfreezing\.py::test_averages_that_are_swapped_in.*\[(mixed_float16|None-options2)",
    r"test_unfreezing\.py::test_frozen_groups_keep_every_bit_and_thawed_ones_move\[(jit|mixed)",
    # Whole trainings and processes whose parts have tests of their own.
    r"test_export\.py::test_trained_model_repeats_its_scores_from_the_export",
    r"test_keras_methods\.py::test_minilm_in_eight_bits_keeps_its_vectors",
    r"test_models\.py::test_bfloat16_trains_and_keeps_float32_weights",
    r"test_optimizers\.py::test_adamw_is_keras_own_on_jax",
    r"test_search\.py::test_codes_lose_little_on_the_sts_benchmark",
    r"test_siamese\.py::test_dropout_in_chunks_is_the_same_in_both_computations",
    r"test_tuning\.py::test_a_task_of_ones_own_may_say_more_and_is_searched",
    r"test_tuning\.py::test_hyperband_decides_the_epochs_and_any_evaluation_is_an_objective",
    r"test_unfreezing\.py::test_training_that_is_taken_up_from_a_file_ends_the_same",
    r"test_unfreezing\.py::test_training_that_was_killed_amid_an_epoch_ends_the_same",
]
