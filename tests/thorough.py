"""Cases that the default suite omits: each has a similar case there, or consists of parts that have tests there.

`conftest.py` marks the tests in `WAYS` as `slow`. The others are `slow` and `thorough`, so that `.ci/run` leaves them
to `.ci/thorough`: further cases of parametrized tests (`GRIDS`, and the cases that `SAMPLES` omits), cases like one of
the default suite (`ALIKE`), and long paths of which `.ci/run` keeps a shorter one (`LONG`).

Regular expressions match the part of a test's name after `tests/`; `SAMPLES` holds beginnings of names.
"""

GRIDS = [
    # Each family or task has its own case; the cases that stay trace the different kinds of blocks and tasks.
    r"test_back_out\.py::test_a_classifier_of_every.*\[(albert|camem|gemma3|gte|llama|mpnet|nomic|openai|qwen|xlm)",
    r"test_back_out\.py::test_a_written_encoder_is_read_to_the_bit.*\[(families/xlm_roberta|families2/t5\])",
    r"test_back_out\.py::test_every_family_has_a_way_back\[(?!bert|camembert|gemma3_text|qwen2)",
    r"test_backbones\.py::test_a_fresh_process_reloads_the_same_numbers\[jax",
    r"test_backbones\.py::test_(blocks|config|every_weight).*\[(camembert|distil_bert|electra|llama|qwen2|xlm_roberta)",
    r"test_backbones\.py::test_gradients_of_a.*\[(camem|distil|electra|eurobert|gpt2|gte|llama|nomic|qwen|roberta|xlm)",
    # Every case runs in float64.
    r"test_crf\.py::test_.*references\[(two_tags|one_step|four|tiny|zero|bio_1-|bio_._free|bio_3|bioes_1).*-float32",
    r"test_crf\.py::test_fit_trains_the_weights_of_the_chain\[mixed_float16",
    r"test_families\.py::test_family_classifies_after_a_step_of_training\[deberta_v3",
    r"test_families\.py::test_family_embeds_with_every.*\[(bert|distil|electra|eurobert|gpt2|gte|llama|nomic|t5\]|xlm)",
    r"test_backbones\.py::test_xla_gives_the_same_numbers\[(bert|mpnet)",
    r"test_deciding\.py::test_(other_classifiers.*\[(own|mlp|multimodal)|tasks_decide|a_threshold)",
    r"test_few_shot\.py::test_every_way.*\[(probe_then|lora)",
    r"test_from_model\.py::test_every_task_gives.*\[.*-from_preset",
    r"test_from_model\.py::test_every_task_gives.*\[(?!own|crf)",
    r"test_from_model\.py::test_(the_backbone_stays.*\[(frozen|tokens|quantized)|labels_that.*\[(mlp|siamese)|a_checkpoints.*Tagger)",
    r"test_frozen_cache\.py::test_every_family_is_cut_without_a_trace\[(roberta|albert|electra|distil_bert)",
    r"test_frozen_cache\.py::test_training_on_stored_features.*\[(cross-encoder|siamese classifier|embedder)",
    r"test_heads\.py::test_a_familys_head_equals_its_formula\[(camembert|llama|qwen2|xlm_roberta)",
    r"test_heads\.py::test_a_trained_head_comes_back_from_a_file.*\[(gpt2|modernbert mean)",
    r"test_heads\.py::test_missing_and_misshapen_tensors_of_a_head_are_errors\[(eurobert|roberta)",
    r"test_keras_hub\.py::test_a_known_family_comes_in_our_form_with_its_numbers\[XLMRoberta",
    r"test_keras_hub\.py::test_every_task_model.*\[(BertBackbone-(embedder|regressor)|FNetBackbone-(classifier|siamese))",
    r"test_keras_hub\.py::test_training_above_frozen_layers.*\[CLIP",
    r"test_keras_methods\.py::test_inherited_methods_work_or_refuse_for_every_task\[(multi_label|siamese)",
    r"test_lora\.py::test_(adapters_a|a_file_keeps|the_kernel).*\[(gpt2|albert|deberta_v3)",
    r"test_peft\.py::test_what_is_written_adds_to_each_matrix.*\[qwen2",
    r"test_resume\.py::test_early_stopping_on_an_evaluation.*\[(regressor|siamese)",
    r"test_sentence_transformers\.py::test_a_folder_gives_the_references_numbers\[(st_e5_passage_only|st_t5)",
    r"test_tokenizers\.py::test_lowercase_comes_before_the_normalizer_of_the_folder\[(bert_unigram|mpnet)",
    r"test_tokenizers\.py::test_tokens_added_later_are_found_counted_and_saved\[(modernbert|qwen3|eurobert|t5)",
    r"test_tagger_checkpoint\.py::test_a_familys_token_head_equals.*\[(?!bert|modernbert|llama|t5)",
    r"test_token_offsets\.py::test_offsets_are_the_references\[(bert_cased|distil|electra|eurobert|gte|llama|nomic|qwen|t5|xlm)",
    # Settings of one mechanism: the two that differ most stay in the default suite.
    r"test_callbacks\.py::test_every_few_steps_values_are_in_the_logs_of_the_step\[2",
    r"test_callbacks\.py::test_a_copy_evaluates_the_same_and_starts_afresh\[(pairs|triplets|reranking)",
    r"test_contracts\.py::test_model_gives_the_same_eagerly_compiled_and_in_predict\[(TextRegressor|Reranker|Siamese\])",
    r"test_contracts\.py::test_mixed_precision_gives.*\[(Reranker-|(TextEmbedder|TextRegressor|SiameseClassifier)-mixed_float16)",
    r"test_contracts\.py::test_loss_is_the_same_compiled.*\[(PN|NPairs|Lifted|Generalized|SoftN|Contrastive.*Tension|Matryoshka2d)",
    r"test_losses_metric\.py::test_losses_on_class_ids_equal.*\[pairs",
    r"test_contracts\.py::test_(mixed|model_gives|order|padding|preset).*\[ContrastiveTension",
    r"test_contracts\.py::test_(mixed|model_gives|one_training|order|preset).*\[(Denoising|MaskedLanguageModel-mixed_float)",
    r"test_contracts\.py::test_(mixed|model_gives|one_training|preset).*\[(SparseEmbedder|LateInteraction)",
    r"test_damaged_files\.py::test_wrong_content_of_adapters.*\[(another name|a tensor less|other targets)",
    r"test_data_columns\.py::test_batches_of_every_kind.*\[(?!words|image|labels)",
    r"test_decoders\.py::test_every_task_reads.*openai",
    r"test_denoising\.py::test_(every_kind.*\[(?!modernbert)|it_learns|the_encoder_goes|what_is_deleted.*\[right)",
    r"test_export\.py::test_small_weights_answer_as_the_rounded_model_does\[bfloat16",
    r"test_export_ids\.py::test_the_readmes_program.*\[(onnx-score|onnx-pairs|onnx-embedder|litert-towers|litert-score|litert-embedder)",
    r"test_export_ids\.py::test_padding_on_either_side_changes_nothing\[onnx",
    r"test_export_ids\.py::test_the_version_that_converted_is_kept\[litert",
    r"test_frozen_cache\.py::test_half_precision_changes_outputs_by_its_rounding\[bfloat16",
    r"test_gate\.py::test_class_weights_go_by_name_or_are_balanced\[(labelled|ids)",
    r"test_gate\.py::test_fit_and_evaluate.*\[(tuples|object arr|string series|frame|table|columns|PyDataset of arr)",
    r"test_gate\.py::test_int_labels_stay_labels.*\[(False-labels0|True-labels1|False-labels2)",
    r"test_heads\.py::test_the_activation_of_scores_is_the_folders\[changes[1235]",
    r"test_keras_methods\.py::test_a_quantized_model_is_exported_cached_and_freed_of_its_optimizer\[int4",
    r"test_keras_methods\.py::test_adapters_on_quantized_weights.*\[(int4-quantized_first|int8-adapters_first)",
    r"test_lora\.py::test_loading_that_fails_leaves.*\[(assigning-True|assigning over-True|shape-False|adding)",
    r"test_minilm\.py::test_embeddings_equal_the_reference_at_any_batch_size\[(1|300)\]",
    r"test_optimizers_replica\.py::test_a_model_that_was_trained_leaves_no_graph.*\[(Keras's|scaling)",
    r"test_own_task\.py::test_what_lies_above_frozen_layers_trains_to_the_same_weights\[1",
    r"test_resume\.py::test_a_run_killed_twice_ends_as_one_that_was_not\[(accumulation|schedule)",
    r"test_siamese\.py::test_chunks_give_the_vectors_and_gradients_of_one_pass\[(1|16)\]",
    r"test_tokenizers\.py::test_added_tokens_are_found_as_the_reference_finds_them\[1-",
    r"test_unfreezing\.py::test_averages_that_are_swapped_in.*\[(mixed_float16|None-options2)",
    r"test_unfreezing\.py::test_frozen_groups_keep_every_bit_and_thawed_ones_move\[(jit|mixed)",
    # Long paths through the whole package: similar ones stay in the slow suite.
    r"test_augmentation\.py::test_augmentation_and_mixup_train_on_jax",
    r"test_callbacks\.py::test_evaluation_in_mid_epoch_works_on_jax",
    r"test_cold\.py::test_(fit_and|nothing_is).*\[(decoder|layerwise|metrics by name|siamese|tagger|regressor)",
    r"test_compose\.py::test_the_stand_in_answers",
    r"test_connections\.py::test_training_above_kept_blocks.*-3\]",
    r"test_deciding\.py::test_decisions_are_the_same_on_jax",
    r"test_denoising\.py::test_jax",
    r"test_devices\.py::test_on_two_replicas\[(callbacks|weights)",
    r"test_evaluation_tagger\.py::test_taggers_are_trained_evaluated_and_resumed_on_jax",
    r"test_examples\.py::test_(gradual|search_captions|siamese_nli|text_and_columns|the_tour|triplets_nli)",
    r"test_explain\.py::test_jax",
    r"test_export_explain\.py::test_exports_of_other_tokenizers.*\[(roberta|t5|xlm_roberta)",
    r"test_families\.py::test_(adapters_and_kept|family_classifies).*\[(?!bert\]|gemma3|gpt2|modernbert|t5\])",
    r"test_keras_methods\.py::test_inherited_methods_work_or_refuse_for_every_task\[(embedder|regressor)",
    r"test_keras_methods\.py::test_minilm_in_few_bits.*int4",
    r"test_late_interaction\.py::test_jax",
    r"test_losses_memory\.py::test_a_memory_trains_and_comes_back_on_jax",
    r"test_lora\.py::test_merged_outputs_are_the_same.*\[(albert|gemma3|gpt2)",
    r"test_multitask\.py::test_(groups_thaw_and_half_precision.*float16|jax)",
    r"test_notebooks\.py::test_a_notebook_runs\[(freeze|similarity|tag)",
    r"test_optimizers_auto\.py::test_on_jax",
    r"test_optimizers_layerwise\.py::test_rates_subsets_and_schedules_on_jax",
    r"test_readme\.py::test_the_code_blocks_run\[docs/tour",
]

WAYS = [
    # Complete training runs and processes whose parts have their own tests.
    r"test_export\.py::test_trained_model_repeats_its_scores_from_the_export",
    r"test_keras_methods\.py::test_minilm_in_eight_bits_keeps_its_vectors",
    r"test_minilm\.py::test_sts_benchmark_gives_the_published_correlation",
    r"test_masked\.py::test_a_familys_head.*\[(?!modernbert)",
    r"test_masked\.py::test_(a_run_that|an_export|every_form|half_precision|what_is_hidden.*\[right)",
    r"test_models\.py::test_bfloat16_trains_and_keeps_float32_weights",
    r"test_models\.py::test_stopping_early_restores_the_best_weights",
    r"test_optimizers\.py::test_adamw_is_keras_own_on_jax",
    r"test_search\.py::test_codes_lose_little_on_the_sts_benchmark",
    r"test_siamese\.py::test_dropout_in_chunks_is_the_same_in_both_computations",
    r"test_tuning\.py::test_a_task_of_ones_own_may_say_more_and_is_searched",
    r"test_tuning\.py::test_embedders_are_searched_over_losses",
    r"test_tuning\.py::test_hyperband_decides_the_epochs_and_any_evaluation_is_an_objective",
    r"test_unfreezing\.py::test_training_that_is_taken_up_from_a_file_ends_the_same",
    r"test_unfreezing\.py::test_training_that_was_killed_amid_an_epoch_ends_the_same",
    # Paths through the whole package, each step of which has its own test; together half of the slow time.
    r"test_backbones\.py::test_a_fresh_process_reloads_the_same_numbers",
    r"test_callbacks_rates\.py::test_the_callback_must_know_the_number_of_steps",
    r"test_cold\.py::test_fit_and_evaluate_trace.*\[(decoder|metrics by name|siamese|layerwise|regressor)",
    r"test_cold\.py::test_nothing_is_rewritten_by_autograph\[siamese",
    r"test_contract_server\.py::test_(warm_up_is_replayed|outputs_need_the_batch|one_bad_request)",
    r"test_contracts\.py::test_models_are_loaded_by_a_fresh_process",
    r"test_contracts\.py::test_one_training_step_moves.*\[(Siamese|TextRegressor|Reranker|SiameseClassifier)",
    r"test_data_batches\.py::test_batches_are_what_the_preprocessor_makes_of_the_same_rows\[True",
    r"test_data_columns\.py::test_batches_of_every_kind.*\[words",
    r"test_data_mix\.py::test_(mixtures_outlive|fit_takes_a_mixture|by_turns.*order[12]|a_mixture_is_taken.*options1)",
    r"test_data_plans\.py::test_(a_siamese_model_is_fitted|unique_texts_through_the_pipeline.*joint)",
    r"test_export\.py::test_(the_head_keeps|siamese_towers_are|memory_stays_flat)",
    r"test_families\.py::test_(family_classifies_after_a_step|adapters_and_kept_output).*\[gemma3",
    r"test_freezing\.py::test_flags_take_effect_in_a_model_that_has_trained",
    r"test_from_preset\.py::test_(towers|a_siamese_classifier)_comes?_back_whole",
    r"test_from_preset\.py::test_training_goes_on_with_the_optimizers_state",
    r"test_frozen_cache\.py::test_(features_of_data_that_are_gone|a_cache_on_disk_serves|a_cache_that_was_not)",
    r"test_frozen_cache\.py::test_(a_callback_list_and_averages|the_columns_of_towers|what_the_model_is_compiled)",
    r"test_frozen_cache\.py::test_(a_mix_of_batches|training_on_stored_features.*triplets)",
    r"test_gate\.py::test_fit_and_evaluate_take_every_form\[(?!lists|labelled|dict|batches)",
    r"test_heads\.py::test_(the_export_ranks|a_frozen_backbone_is_computed|the_problem_type_decides)",
    r"test_heads\.py::test_the_activation_of_scores_is_the_folders\[changes4",
    r"test_keras_hub\.py::test_(a_wrapped_backbone_trains.*FNet|training_above_frozen_layers.*OPT)",
    r"test_keras_methods\.py::test_(adapters_on_quantized|inherited_methods_of_encoders|int8_leaves_activations)",
    r"test_keras_methods\.py::test_(inherited_methods_work_or_refuse_for_every|a_quantized_(model_is_exp|preset))",
    r"test_lora\.py::test_loading_that_fails_leaves_the_model_as_it_was\[assigning",
    r"test_losses_logits\.py::test_a_classifier_learns_from_a_teachers_probabilities",
    r"test_minilm\.py::test_embeddings_equal_the_reference_at_any_batch_size\[32",
    r"test_models\.py::test_two_columns_make_one_sequence_for_a_cross_encoder",
    r"test_optimizers_auto\.py::test_on_jax",
    r"test_optimizers_layerwise\.py::test_(a_group_thaws_within_one_fit|compile_binds_the_groups)",
    r"test_optimizers_replica\.py::test_(a_model_that_was_trained.*ours-True|on_one_replica)",
    r"test_own_task\.py::test_(it_resumes|what_lies_above)",
    r"test_preprocessing_packing\.py::test_(an_export_needs_only|keras_files_bring)",
    r"test_probe\.py::test_a_probe_above_frozen_layers",
    r"test_quiet\.py::test_(the_users_own_level|a_function_that_is_traced)",
    r"test_resume\.py::test_(siamese_on_batches|other_rows_under|what_other_callbacks_do|classifier_on_strings)",
    r"test_resume\.py::test_(gradual_unfreezing|batches_are_told|data_of_unknown_length)",
    r"test_sentence_transformers\.py::test_(prompts_that_are_not_pooled_are_served|every_module_is_exported)",
    r"test_siamese\.py::test_(siamese_classifier_learns|chunks_train_with_frozen)",
    r"test_tokenizers\.py::test_classes_of_patterns_are_those_of_the_reference",
    r"test_tuning\.py::test_(the_table_tells|a_trial_goes_on|a_trial_that_fails|gradual_unfreezing|a_regressor_is)",
    r"test_tuning\.py::test_(embedders_of_any_kind|the_dtype_policy|what_callbacks_of_your_own|rows_that_were_changed)",
    r"test_unfreezing\.py::test_(training_equals_a_loop|a_group_thaws_amid|averages_)",
    r"test_cold\.py::test_importing_the_package_adds_nothing_heavy",
    r"test_data_mix\.py::test_a_seed_fixes_the_mixture",
    r"test_export_ids\.py::test_the_readmes_program_gives_what_the_model_gives\[litert-pairs",
    r"test_from_preset\.py::test_(an_embedder_with_dense_layers|a_class_of_the_users_comes_back)",
    r"test_frozen_cache\.py::test_strings_validation_callbacks",
    r"test_gate\.py::test_class_weights_go_by_name_or_are_balanced\[batches",
    r"test_heads\.py::test_a_familys_head_equals_its_formula\[(?!bert|deberta|gpt2|modernbert|roberta|t5)",
    r"test_keras_hub\.py::test_a_wrapped_backbone_is_quantized",
    r"test_optimizers_replica\.py::test_the_step_is_traced_once.*\[(scaling|Keras's)",
    r"test_probe\.py::test_a_new_head_starts_as_a_probe.*\[sgd",
    r"test_resume\.py::test_(steps_that_run_together|subclasses_and_lists)",
    r"test_sentence_transformers\.py::test_a_folder_gives_the_references_numbers\[st_mpnet_prompt",
    r"test_siamese\.py::test_chunks_give_the_vectors_and_gradients_of_one_pass\[100",
    r"test_tuning\.py::test_what_is_frozen_thaws_within_a_trial",
    r"test_unfreezing\.py::test_frozen_groups_keep_every_bit.*\[averages that overwrite",
    r"test_writes\.py::test_a_failure_at_any_step_leaves_the_old_one.*\[report-(fsync|replace)",
    r"test_cold\.py::test_(nothing_is_rewritten|fit_and_evaluate_trace).*\[classifier",
    r"test_data_mix\.py::test_in_proportion_every_batch",
    r"test_from_preset\.py::test_saved_labels_are_reordered",
    r"test_keras_hub\.py::test_a_backbone_that_keras_hub_quantized",
    r"test_lora\.py::test_loading_that_fails_leaves_the_model_as_it_was\[shape-True",
    r"test_tuning\.py::test_(a_search_is_taken_up|texts_are_tokenised_once|the_batch_size_is_that|the_rate_rises_and)",
    r"test_tuning\.py::test_(trials_leave_no_gradients|the_best_model)",
    r"test_architecture\.py::test_the_package_imports_where_no_optional_part_is_installed",
    r"test_export_ids\.py::test_(the_readmes_program.*onnx-towers|a_classifier_answers_as_predict.*litert)",
    r"test_heads\.py::test_training_goes_on_from_a_trained_head\[eurobert",
    r"test_unfreezing\.py::test_frozen_groups_keep_every_bit.*\[adapters",
    r"test_tagger\.py::test_(it_learns|calibration|the_export|an_export|what_it_says|entities_|a_stream|rows_in).*\[linear",
    r"test_tagger\.py::test_(the_scheme_is_never_broken\[(IOB2|BILOU)|tags_without_a_scheme)",
    r"test_tagger\.py::test_words_have_the_ids_of_the_reference\[(albert|xlm_roberta|roberta)",
    r"test_tagger_training\.py::test_(half_precision.*float16|xla_trains.*linear|adapters_train|groups_thaw)",
    r"test_evaluation_tagger\.py::.*\[linear",
    r"test_evaluation_tagger\.py::test_(a_killed_training|plain_tags_are_reported|early_stopping)",
    r"test_crf\.py::test_fit_trains_the_weights_of_the_chain\[float32-True",
    r"test_export_ids\.py::test_a_taggers_emissions.*(onnx-linear|litert)",
    r"test_suggest\.py::test_labels_that_are_suggested_teach_more",
    r"test_tagger_training\.py::test_(?!validation)",
    r"test_suggest\.py::test_(?!a_classifier_doubts|the_most_doubtful)",
    r"test_contracts\.py::test_(model_gives_the_same|mixed_precision.*float16|preset_folder|model_comes).*MultiTask",
    r"test_contracts\.py::test_(mixed_precision_gives|order_of|padding).*MultiTask",
    r"test_multitask\.py::test_(batches_hold|predict_answers|frozen_groups)",
    r"test_multitask\.py::test_(a_step_without_conflicts.*\[3|a_preset_of_one_task|rows_are_weighed)",
    r"test_gradient_checkpointing\.py::test_fit_trains",
    r"test_in_flight\.py::test_answers_are.*\[(embedder|tagger-m|classifier-f)",
    r"test_multimodal\.py::test_(features_of_a_frozen_image|stored_features_of_images)",
    r"test_narrow\.py::test_kernels_with_adapters",
]

# Similar cases, which run on graphs like those of the default suite.
ALIKE = [
    # Tests of taggers, several tasks and further heads: each has a similar test that takes a fraction of the time.
    r"test_attention_jax",
    r"test_augmentation\.py::test_batches_hold_what.*\[True-7",
    r"test_backbones\.py::test_hidden_states_equal.*\[(distil_bert|electra)",
    r"test_cold\.py::test_(nothing_is_rewritten|fit_and_evaluate_trace).*\[tagger",
    r"test_connections\.py::test_(a_task_gives_its_head.*convolution|the_output_layer_of_concat)",
    r"test_contracts\.py::test_.*\[(MultimodalRegressor|Siamese-mixed|MultimodalClassifier-mixed_float16|TokenTagger-mixed_fl)",
    r"test_contracts\.py::test_model_gives_the_same_eagerly.*\[(TextEmbedder|SiameseClassifier)",
    r"test_data_batches\.py::test_batches_are_what_the_preprocessor_makes",
    r"test_data_mix\.py::test_by_turns",
    r"test_denoising\.py::test_what_is_deleted_is_a_function.*left-0\.9",
    r"test_evaluation_tagger\.py::test_spans_are_those.*\[crf",
    r"test_export_ids\.py::test_a_taggers_emissions.*\[onnx-crf",
    r"test_families\.py::test_(modernbert_with_gemmas|training_leaves_nothing)",
    r"test_frozen_cache\.py::test_every_family_is_cut_without_a_trace\[(?!bert|modernbert)",
    r"test_frozen_cache\.py::test_(half_precision_changes|what_is_stored_has_the_precision|features_live)",
    r"test_from_model\.py::test_every_task_gives",
    r"test_from_preset\.py::test_(dtype_length_weights|a_trained_head_with_another_rate|what_leaves_nothing_out)",
    r"test_gate\.py::test_(a_share_of_the_rows|class_weights_go|weights_count_in_fit|int_labels_stay.*True)",
    r"test_heads\.py::test_(a_trained_head_comes|missing_and_misshapen).*\[(eurobert|modernbert)",
    r"test_heads\.py::test_(the_activation_of_scores|labels_in_another_order)",
    r"test_keras_hub\.py::test_a_known_family_comes.*\[Albert",
    r"test_keras_hub\.py::test_(every_task_model.*siamese|an_epsilon)",
    r"test_masked\.py::test_rows_of_new_tokens",
    r"test_models\.py::test_(labels_may_be_numbers|multi_label_gives|training_the_towers)",
    r"test_multimodal\.py::test_(it_learns_what_only|what_lies_above.*\[2|an_image_backbone)",
    r"test_multitask\.py::test_texts_of_a_task",
    r"test_optimizers_auto\.py::test_(epochs_are_so_many|a_rate_that_is_set|a_fit_in_two_parts)",
    r"test_peft\.py::test_tensors_that_do_not_fit",
    r"test_probe\.py::test_(a_new_linear_head_of_a_tagger|a_probe_starts_again|class_weights_reach|endless_data|probes_of_labels)",
    r"test_resume\.py::test_(early_stopping_on_an_evaluation.*tagger|the_state_of_other)",
    r"test_sentence_transformers\.py::test_a_frozen_backbone_is_cached",
    r"test_students\.py::test_a_student_of_convolutions_learns",
    r"test_tagger\.py::test_(it_learns_tags|calibration_finds|probabilities_are).*\[crf",
    r"test_tagger\.py::test_(rows_in_every_form.*crf|the_scheme_is.*IOBES|pipelines_with_tags)",
    r"test_tuning\.py::test_a_tagger_of_a_trial",
    r"test_windows\.py::test_any_stride_answers_every_word\[(1|14)\]",
    r"test_evaluation_tagger\.py::test_a_word_without_a_token",
    r"test_probe\.py::test_a_loss_that_no_regression",
    r"test_report\.py::test_many_classes",
    r"test_sentence_transformers\.py::test_every_module_is_saved",
    r"test_suggest\.py::test_the_most_doubtful.*\[(1|9)\]",
    r"test_tagger\.py::test_(probabilities_are|words_without)",
    r"test_tagger_training\.py::test_validation_is",
    # Long tests: shorter ones cover the same code.
    r"test_augmentation\.py::test_(batches_hold|fit_trains_on_changed)",
    r"test_callbacks\.py::test_(early_stopping_stops|the_best_of_several)",
    r"test_connections\.py::test_training_above_kept",
    r"test_contract_server\.py::test_with_batching_requests_without",
    r"test_deciding\.py::test_(explanations_are|other_classifiers|presets_keep)",
    r"test_evaluation_tagger\.py::test_entities_are_scored",
    r"test_freezing\.py::test_towers_and_their",
    r"test_frozen_cache\.py::test_(batches_come_in|equal_texts_are)",
    r"test_from_model\.py::test_the_backbone_stays.*adapters",
    r"test_masked\.py::test_(backbones_and_arguments|what_is_hidden)",
    r"test_models\.py::test_towers_take_triplets",
    r"test_multimodal\.py::test_columns_with_names",
    r"test_optimizers_subset\.py::test_steps_in_a_graph",
    r"test_predict_table\.py::test_(several_tasks|vectors_scores)",
    r"test_report_page\.py::test_several_labels",
    r"test_siamese\.py::test_chunks_give",
    r"test_suggest\.py::test_the_most_doubtful",
    r"test_windows\.py::test_every_word_stands",
    r"test_back_out\.py::test_adapters_are_merged",
    r"test_callbacks\.py::test_an_embedder_does_not_end",
    r"test_evaluation_tagger\.py::test_spans_of_a_generator",
    r"test_deciding\.py::test_explanations_are.*temperature",
    r"test_engine\.py::test_(an_engine_is_not_saved|layers_that_stay)",
    r"test_export_ids\.py::test_(norms_activations.*\[(modern|deberta)|smaller_weights.*onnx-float16)",
    r"test_few_shot\.py::test_(every_way_gives.*setfit|dropout_makes)",
    r"test_frozen_cache\.py::test_other_models_arguments",
    r"test_heads\.py::test_training_goes_on_from",
    r"test_keras_methods\.py::test_(filters_choose|inherited_methods_work.*\[quantize)",
    r"test_damaged_files\.py::test_a_model_is_trained_and_gets",
    r"test_multimodal\.py::test_what_lies_above",
    r"test_multitask\.py::test_a_file_holds",
    r"test_optimizers_replica\.py::test_a_model_that_was_trained.*ours-False",
    r"test_optimizers_subset\.py::test_(what_is_frozen_is_the_same|a_state_that_was)",
    r"test_report\.py::test_(a_regressor_is|points_move|an_embedder_is)",
    r"test_resume\.py::test_what_may_have_changed",
    r"test_students\.py::test_a_static_students_head",
    r"test_tuning\.py::test_the_model_is_what",
    r"test_writes\.py::test_a_failure_at.*report_entities",
    r"test_resume\.py::test_a_stream_of_rows_is_resumed.*False",
    r"test_losses_backends\.py::test_losses_on_replicas.*some",
    r"test_own_task\.py::test_it_trains_and_answers",
    r"test_losses_memory\.py::test_a_file_keeps",
    r"test_evaluation_tagger\.py::test_values_are_those",
    r"test_export_adapters\.py::test_each_row",
    r"test_optimizers_replica\.py::test_the_step_is_traced_once.*ours",
    r"test_multitask\.py::test_a_step_of_each",
    r"test_data_batches\.py::test_a_stream_taken_up_in_its_middle_gives_the_rest",
    r"test_evaluation_tagger\.py::test_what_the_model_is_right_about",
    r"test_export\.py::test_versions_count_up",
    r"test_export_assets\.py::test_the_server_can_replay.*entailment",
    r"test_frozen_cache\.py::test_training_on_stored_features_gives.*\[classifier",
    r"test_masked\.py::test_it_learns_and_evaluates",
    r"test_multimodal\.py::test_files_and_presets",
    r"test_optimizers_auto\.py::test_rates_rise",
    r"test_probe\.py::test_(a_taggers_probe|steps_that_cannot)",
    r"test_reranker\.py::test_(the_loss_of_a_fit|an_export_ranks)",
    r"test_tagger\.py::test_the_export_gives_what_extract_gives.*crf",
    # Tests of two seconds and more. Shorter tests cover each part of their paths, and the slow suite the whole.
    r"test_resume\.py::test_(early_stopping_on_an_evaluation|a_stream_of_rows_is_resumed)",
    r"test_probe\.py::test_(no_epochs_change|a_new_head_starts_as.*\[auto|under_a_frozen_encoder|data_that_come_once)",
    r"test_windows\.py::test_what_is_far_away",
    r"test_evaluation_tagger\.py::test_the_report_of_a_tagger",
    r"test_record\.py::test_(files_and_presets.*\[siamese|an_export_says|each_fit_adds)",
    r"test_losses_memory\.py::test_towers_over",
    r"test_tagger\.py::test_entities_stand_where",
    r"test_tagger_checkpoint\.py::test_(a_scheme_that_is_given|a_head_with_layers)",
    r"test_crf\.py::test_(a_saved_model_decodes|a_model_with_a_chain)",
    r"test_writes\.py::test_an_export_that_fails",
    r"test_logits\.py::test_losses_of_ones_own",
    r"test_multitask\.py::test_an_export_answers",
    r"test_multimodal\.py::test_(the_export_takes|features_of_a_frozen_image.*\[1|images_that_differ.*(trains|layer0))",
    r"test_same_bits\.py::test_probabilities_in_python.*\[True",
    r"test_deciding\.py::test_(several_labels_have|training_makes)",
    r"test_frozen_cache\.py::test_frozen_weights_that_change_or",
    r"test_contracts\.py::test_model_gives_the_same_eagerly.*\[TokenTagger",
    r"test_tables\.py::test_a_run_that_is_killed.*\[csv-12",
    r"test_engine\.py::test_(an_engine_answers.*\[(regressor|embedder)|prompts_and|weights_that_change)",
    r"test_added_tokens\.py::test_a_model_with_new",
    r"test_callbacks\.py::test_every_few_steps",
    r"test_explain\.py::test_a_similarity_is_explained.*cosine",
    r"test_sentence_transformers\.py::test_a_prompt_that_is_not_pooled",
    r"test_data_rankings\.py::test_every_list_comes.*options1",
    r"test_data_from_labels\.py::test_(large_data|every_pair)",
    r"test_data_mix\.py::test_(streams_mapped|a_mixture_is_taken_up.*options0)",
    r"test_gate\.py::test_(shares_and_weights|steps_per_epoch)",
    r"test_augmentation\.py::test_(tagged_rows|mixup_is_saved)",
    r"test_siamese\.py::test_a_decoder_(makes_scores|may_be)",
    r"test_search_negatives\.py::test_scorer_judges",
    r"test_static\.py::test_a_static_encoder_trains",
    r"test_evaluation_pairs\.py::test_similarity_takes",
    r"test_report_page\.py::test_a_large_report",
    # Tests of a second and more: their neighbors, or the tests that a comment names, cover the same paths.
    r"test_back_out\.py::test_(a_card_says.*\[sentence|a_written_embedder.*\[st_mpnet|any_pooling.*\[linear)",
    r"test_backbones\.py::test_xla_gives.*\[gemma3",
    r"test_callbacks\.py::test_a_copy_evaluates.*\[(retrieval|mining|nano)",
    r"test_callbacks_rates\.py::test_the_range_test_leaves.*\[None",
    r"test_connections\.py::test_no_backward_pass.*\[concat",
    r"test_data_batches\.py::test_whether_batches.*\[True",
    r"test_data_columns\.py::test_batches_of_every_kind.*\[labels",
    r"test_data_plans\.py::test_(many_rows_are|batches_by_class.*\[False)",
    r"test_data_tagged\.py::test_wnut17.*\[train",
    r"test_data_targets\.py::test_labelled_rows.*\[labels0",
    r"test_engine\.py::test_an_engine_answers.*\[(classifier-int8|siamese)",
    r"test_export_ids\.py::test_(smaller_weights.*\[litert-int8|the_version_that)",
    r"test_export_signatures\.py::test_a_request_of_the_wrong.*\[relevance-classify-",
    r"test_few_shot\.py::test_every_way.*\[probe\]",
    r"test_from_preset\.py::test_a_regressor_comes",
    r"test_heads\.py::test_(missing_and_misshapen.*\[bert|a_class_that_leaves.*\[TextEmbedder|labels_are_renamed)",
    r"test_keras_hub\.py::test_(every_task_model.*\[BertBackbone-c|frozen_layers_of.*\[XLNet)",
    r"test_late_interaction\.py::test_vectors_are_those.*\[right-True",
    r"test_logits\.py::test_(crossentropies_of.*\[SparseCategoricalC|the_binary_crossentropy_of.*\[b)",
    r"test_lora\.py::test_(the_kernel|a_file_keeps|adapters_are_a_file).*\[gemma3",
    r"test_losses_metric\.py::test_losses_on_class_ids.*\[overlapping",
    r"test_peft\.py::test_what_was_trained_further.*\[bert",
    r"test_preprocessing\.py::test_(hard_texts|texts_of_fifteen|special_tokens_in).*\[(bert_cased|roberta)",
    r"test_preprocessing_packing\.py::test_byte_pair.*\[roberta",
    r"test_preprocessing_write\.py::test_older_files.*\[(albert|bert)",
    r"test_sentence_transformers\.py::test_a_folder_gives.*\[st_gemma3",
    r"test_static\.py::test_model2vec.*\[float16",
    r"test_tokenizers\.py::test_(a_seed_that.*\[qwen3|added_tokens_are.*\[0-gemma3|tokens_added_later.*\[openai)",
    r"test_tokenizers\.py::test_(special_tokens_in.*\[qwen3|lowercase_comes.*\[openai)",
    r"test_unfreezing\.py::test_a_schedule_beyond.*\[arguments2",
    # Other models are predicted with in their own tests, and `test_crf` compiles the loss of a chain.
    r"test_contracts\.py::test_(model_gives_the_same.*\[Multimodal|loss_is_the_same_compiled.*\[ChainCross)",
    # Other tests of batches use each of these forms of data, and measure the padding of generated rows.
    r"test_data_batches\.py::test_(data_come_as|real_questions)",
    # `test_report_page` reports on a model, and `test_evaluation` scores one; others score labels that are numbers.
    r"test_evaluation_labels\.py::test_a_model_whose_labels",
    r"test_report\.py::test_a_classifier_is_reported",
    # `test_keras_methods` saves a trained model with its flags, `test_contracts` trains for a step, and
    # `test_callbacks` with validation data.
    r"test_freezing\.py::test_flags_switch",
    r"test_models\.py::test_(validation_data_of|frozen_groups_do|trained_model_comes)",
    # `test_tagger` loads weights for tags in another order.
    r"test_gate\.py::test_labels_in_another_order",
    # `test_minilm` compares vectors with the reference's.
    r"test_backbones_presets\.py::test_minilm_token_vectors",
    # `test_data_targets` compares the vectors of three columns with those of the embedder.
    r"test_siamese\.py::test_any_number",
    # `test_export_signatures` sends requests without rows, and bytes that are not UTF-8.
    r"test_tagger\.py::test_(an_export_of_no|what_it_says)",
    # `test_preprocessing` compares the tokens of every third character.
    r"test_tokenizers\.py::test_character_classes",
]

# Long paths; what `.ci/run` keeps of each stands before it.
LONG = [
    # Two devices of one host, by the same code.
    r"test_hosts\.py::test_two_processes",
    # The quickstart, classify, serve, similarity_sts and a task of one's own; every part of the others has tests.
    r"test_examples\.py::test_(production|search_stack|tag_entities|tune)",
    r"test_notebooks\.py::test_a_notebook_runs\[classify",
    # A run that is killed twice on TensorFlow; every kind of model and callback is resumed in the default suite.
    r"test_resume\.py::test_(a_run_is_resumed_in_mid_epoch_on_jax|batches_are_told.*\[True|other_rows_under|a_stream.*\[True)",
    r"test_resume\.py::test_(early_stopping_on_an_evaluation.*\[tagger|siamese_on_batches|what_may_have_changed)",
    r"test_unfreezing\.py::test_training_that_(was_killed_amid|is_taken_up_from)",
    r"test_optimizers_layerwise\.py::test_a_model_that_was_saved",
    r"test_command_line\.py::test_a_program_that_is_killed_again_and_again",
    # Models of every kind on JAX (`test_contracts.py`), losses and attention there.
    r"test_unfreezing\.py::test_it_thaws_on_jax",
    r"test_masked\.py::test_jax",
    r"test_gradient_checkpointing\.py::test_jax",
    r"test_crf\.py::test_the_chain_is_the_same_on_jax",
    r"test_losses_logits\.py::test_.*on_jax",
    # The real weights in float32 and in eight bits, and their score on STS-B.
    r"test_same_bits\.py::test_vectors_of_real_weights\[mixed_bfloat16",
    r"test_minilm\.py::test_linear_probe_on_cached_embeddings",
    r"test_keras_methods\.py::test_minilm_in_few_bits",
    r"test_explain\.py::test_planted_words",
    # The head with a chain.
    r"test_tagger\.py::test_(it_learns_tags|a_document_of_60000).*\[linear",
    r"test_tagger_training\.py::test_xla_trains.*\[linear",
    # Another kind of model or option of the same mechanism.
    r"test_unfreezing\.py::test_averages",
    r"test_keras_methods\.py::test_(inherited_methods_work_or_refuse_for.*tagger|int8_leaves|adapters_on_quantized)",
    r"test_devices\.py::test_on_two_replicas\[frozen_parts",
    r"test_siamese\.py::test_dropout_in_chunks",
    r"test_tuning\.py::test_(taggers_are_searched|bayesian|embedders_are|a_task_of_ones_own)",
    r"test_losses_backends\.py::test_losses_on_replicas.*\[some",
    r"test_backbones\.py::test_a_fresh_process.*names1",
    r"test_masked\.py::test_(rows_of_new_tokens|it_learns_and)",
    r"test_export_explain\.py::test_exports_of_other_tokenizers",
    r"test_families\.py::test_adapters_and_kept_output.*\[(gpt2|gemma3|t5)",
    # Pages whose calls are those of README, of the other pages and of the examples.
    r"test_docs\.py::test_the_blocks_of_a_page_run\[(gallery|kinds|decisions|skewed)",
    # What is suggested for labelling is tested by itself; this trains on real rows until the suggestions pay.
    r"test_suggest\.py::test_labels_that_are_suggested_teach_more",
    # A run that stops in the middle of an epoch is resumed in one process.
    r"test_resume\.py::test_a_process_killed_twice",
    r"test_augmentation\.py::test_a_run_that_was_stopped",
    r"test_multitask\.py::test_a_killed_training",
    # CSV, whose rows are lines as well, and Parquet.
    r"test_tables\.py::test_a_run_that_is_killed_anywhere.*\[jsonl",
    # The other signal; models on JAX in one process; mixtures of lists in `test_data_rankings.py`.
    r"test_workers\.py::test_(an_interrupt_or_a_kill.*\[2|a_class_of_ones_own_on_jax|streams_that_are_read)",
    r"test_reranker\.py::test_generators_mixtures",
    # One of each kind: connections that concatenate, a family on each side of the padding, a converter each.
    r"test_connections\.py::test_training_above_kept.*\[(gated|scalar_mix|convolution)",
    r"test_families\.py::test_family_classifies_after_a_step.*\[(gpt2|gemma3|t5)",
    r"test_export_ids\.py::test_each_family_is_converted.*(litert-(?!bert|gpt2)|onnx-(?!deberta|xlm))",
    # Parts of these have tests of their own.
    r"test_students\.py::test_the_benchmark_makes_a_row",
    r"test_tagger\.py::test_(calibration_finds.*\[linear|a_document_of_60000|the_export_gives.*\[linear)",
    r"test_tagger_training\.py::test_(xla_trains|adapters_train|half_precision.*float16)",
    r"test_tuning\.py::test_(hyperband|the_table_tells|the_best_model)",
    r"test_gradient_registry\.py::.*\[(projected|groups)",
    r"test_sparse\.py::test_training_above_frozen",
    r"test_late_interaction\.py::test_towers_train",
    r"test_search\.py::test_codes_lose_little",
]

# Tests with many cases of one mechanism, each of which takes a tenth of a second or more. The keys are the numbers of
# cases, evenly spread, that stay in the default suite; the slow suite runs the others.
SAMPLES = {
    1: """
        back_out::test_a_card_says back_out::test_a_written_embedder back_out::test_any_pooling
        callbacks_rates::test_the_callback_trains cold::test_evaluate_before contracts::test_model_gives_the_same
        data_batches::test_a_seed_fixes data_batches::test_an_epoch_can_be
        evaluation_tagger::test_spans_of
        frozen_cache::test_frozen_weights_that
        from_model::test_labels_that_both heads::test_a_class_that_leaves keras_hub::test_every_task_model
        keras_hub::test_frozen_layers keras_methods::test_a_quantized_model_is_not
        keras_methods::test_an_encoder_is_copied keras_methods::test_what_needs_float lora::test_adapters_and_head
        peft::test_what_was_trained preprocessing_write::test_older_files
        probe::test_losses_of_numbers resume::test_early_stopping_on resume::test_a_run_killed_twice
        sentence_transformers::test_a_folder_gives suggest::test_the_most_doubtful
        tokenizers::test_a_seed_that_is_set tokenizers::test_added_tokens tokenizers::test_lowercase_comes
        tokenizers::test_special_tokens tokenizers::test_tokens_added_later
        tuning::test_an_objective unfreezing::test_a_schedule_beyond windows::test_any_stride
    """.split(),
    2: """
        back_out::test_a_classifier_of_every_family back_out::test_a_score_keeps
        backbones::test_gradients_of_a_padded
        backbones_config::test_a_checkpoint_of_any_padding
        crf::test_gradients_of_the_chain data_targets::test_targets_of_any_rank export::test_small_weights_fit
        families::test_family_embeds freezing::test_frozen_layers_run from_preset::test_another_class
        gate::test_fit_and_evaluate gate::test_predict_and_classify
        heads::test_a_familys_head heads::test_other_labels keras_hub::test_a_family_without
        keras_hub::test_a_known_family keras_hub::test_a_variant
        multitask::test_tasks_that_do_not_fit optimizers_layerwise::test_averages
        optimizers_subset::test_a_variable_that_joins optimizers_subset::test_an_optimizer_that_was
        peft::test_what_is_written
        resume::test_other_labels report::test_pairs_show
        sentence_transformers::test_do_lower_case tagger_checkpoint::test_a_familys
    """.split(),
    3: """
        contracts::test_all_weights contracts::test_loss_is_the_same_compiled contracts::test_mixed_precision
        contracts::test_model_comes_back contracts::test_model_saves contracts::test_one_training
        contracts::test_order_of_the_batch contracts::test_padding_changes contracts::test_preset_folder
        export_signatures::test_a_request_of_the_wrong
    """.split(),
    4: """
        back_out::test_a_written_encoder_is_read backbones::test_blocks_compute backbones::test_config_and_dtype
        backbones::test_every_weight backbones::test_hidden_states_equal backbones::test_neither_amount
        backbones_config::test_no_value_of_a_config backbones_presets::test_a_task_models
        backbones_presets::test_old_and_new_pooling contracts::test_loss_gradients
        crf::test_marginals_and crf::test_sums_and
        damaged_files::test_wrong_content heads::test_a_head_that_is_not
        optimizers_layerwise::test_any_optimizer peft::test_adapters_of_others peft::test_what_is
        preprocessing_packing::test_single_texts augmentation::test_a_row_is_a_function
        sentence_transformers::test_a_constructor tokenizers::test_hard_texts
        tokenizers::test_texts_of_many tokenizers::test_what_is_written tokenizers_files::test_older_files
        tokenizers_files::test_tokenizer_json tuning::test_a_hypermodel_that_cannot writes::test_a_failure_at
    """.split(),
    5: ["token_offsets::test_offsets_are"],
    8: ["keras_methods::test_inherited_methods_work"],
}
