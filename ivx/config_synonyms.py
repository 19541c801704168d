"""Names that other trainers give to keys of a config, and the nearest keys to an unknown one.

A new user writes `--config.lr` or `--config.epochs`; the error names the key that means it.
"""

import difflib
from collections.abc import Collection

# Key -> other names of it, without section; `-` counts as `_`, and capitals as small letters.
NAMES = {
    "mesh.replica": "dp data_parallel data_parallelism num_slices slices",
    "mesh.fsdp": "fsdp_size zero shard sharding devices num_devices gpus num_gpus ngpus",
    "mesh.tensor": "tp tensor_parallel tensor_parallel_size model_parallel mp",
    "mesh.context": "cp sp sequence_parallel context_parallel context_parallel_size ring",
    "mesh.cpu_devices": "cpus cpu num_cpus",
    "model.preset": "size model_size model_name architecture arch variant",
    "model.attention": "attn attn_implementation attention_type",
    "model.kv_rank": "latent latent_rank kv_lora_rank",
    "model.dtype": "precision mixed_precision bf16 fp16 fp32 bfloat16 float32 compute_dtype amp",
    "model.remat": "remat_policy gradient_checkpointing activation_checkpointing recompute",
    "model.cache": "kv_cache cache_dtype",
    "data.tokenizer": "vocab vocabulary tokenizer_path tokenizer_name",
    "data.mixture": "dataset dataset_path data_path data_dir dataset_dir annotations train_file",
    "data.train": "train_data datasets dataset_name train_set",
    "data.validation": "eval_data eval_dataset val_data val_set valid",
    "data.fps": "frame_rate sample_fps video_fps sampling_rate",
    "data.max_frames": "frames num_frames nframes n_frames fps_max_frames max_num_frames",
    "data.min_frames": "fps_min_frames",
    "data.max_pixels": "resolution video_max_pixels image_size",
    "data.image_max_pixels": "image_resolution",
    "data.pack_tokens": "seq_len seq_length sequence_length max_seq_len max_seq_length max_length"
    " max_sequence_length context_length block_size cutoff_len model_max_length",
    "data.batch_packs": "batch batch_size bs global_batch_size train_batch_size total_batch_size"
    " per_device_batch_size per_device_train_batch_size",
    "data.workers": "num_workers n_workers dataloader_num_workers num_proc",
    "data.prefetch": "prefetch_factor buffer",
    "optim.schedule": "scheduler lr_scheduler lr_scheduler_type lr_schedule lr_decay decay",
    "optim.learning_rate": "lr base_lr peak_lr max_lr learningrate step_size eta",
    "optim.floor": "min_lr end_lr final_lr lr_min min_learning_rate",
    "optim.warmup": "warmup_steps warmup_ratio warmup_fraction warmup_epochs num_warmup_steps",
    "optim.b1": "beta1 adam_beta1 betas momentum",
    "optim.b2": "beta2 adam_beta2",
    "optim.eps": "epsilon adam_epsilon adam_eps",
    "optim.weight_decay": "wd decay_rate l2",
    "optim.clip": "grad_clip gradient_clip gradient_clipping max_grad_norm clip_norm grad_norm",
    "optim.accumulation": "micro_batch micro_batch_size micro_batches microbatches grad_accum"
    " gradient_accumulation gradient_accumulation_steps accumulate accumulate_steps",
    "optim.freeze": "frozen freeze_vision freeze_vision_tower freeze_layers",
    "optim.trainable": "train_only tune trainable_params",
    "optim.lora_rank": "lora lora_r rank r lora_dim",
    "optim.lora_alpha": "alpha lora_scale",
    "optim.lora_targets": "target_modules lora_target lora_modules",
    "optim.ema": "ema_decay ema_rate",
    "run.start": "init init_from checkpoint ckpt load load_from pretrained base base_model"
    " model_path model_name_or_path weights",
    "run.steps": "epochs epoch num_epochs num_train_epochs max_epochs max_steps total_steps"
    " num_steps train_steps num_train_steps training_steps iterations iters max_iters n_steps",
    "run.seed": "random_seed rng_seed",
    "run.log_every": "logging_steps log_interval log_steps log_freq log_period print_every",
    "run.validate_every": "eval_every eval_steps eval_interval val_interval val_every"
    " validation_interval",
    "run.save_every": "save_steps save_interval checkpoint_every checkpoint_interval ckpt_every",
    "run.keep": "keep_checkpoints save_total_limit max_to_keep keep_last",
    "watch.remote": "bucket gcs",
    "watch.profile": "profiler trace",
    "stage.group": "num_generations group_size n_samples samples_per_prompt rollouts g",
    "stage.prompts": "rollout_batch_size num_prompts",
    "stage.max_new_tokens": "max_tokens max_completion_length max_response_length response_length",
    "stage.temperature": "temp sampling_temperature",
    "stage.clip_high": "clip_range clip_ratio epsilon_high",
    "stage.clip_low": "epsilon_low",
    "stage.reduction": "loss_reduction loss_type loss_agg",
    "stage.teacher": "teacher_model teacher_path",
}
_KEYS = {name: key for key, names in NAMES.items() for name in names.split()}
_WORKDIR = ("workdir", "work_dir", "output_dir", "logdir", "log_dir", "save_dir", "out")


def nearest(key: str, known: Collection[str]) -> str:
    """What to say about an unknown key: what it probably means, or where keys are listed.

    Args:
      key: as the user wrote it.
      known: the keys of the config.
    """
    last = key.rpartition(".")[2].lower().replace("-", "_")
    if last in _WORKDIR:
        return "; --workdir names the folder of a run"
    if inner := [other for other in known if other.startswith(f"{key}.")]:
        return f"; {key} is a section, with keys such as {inner[0]}"
    by_last: dict[str, list[str]] = {}
    for other in known:
        by_last.setdefault(other.rpartition(".")[2], []).append(other)
    if last in by_last:
        close = by_last[last]
    elif _KEYS.get(last) in known:
        close = [_KEYS[last]]
    else:
        close = difflib.get_close_matches(key, list(known), 1, 0.8)
        close = close or [
            other
            for name in difflib.get_close_matches(last, [*by_last, *_KEYS], 1, 0.8)
            for other in by_last.get(name, [_KEYS.get(name, "")])
            if other in known
        ]
    if close:
        return f"; did you mean {' or '.join(close[:3])}?"
    return "; `ivx configs --show EXPERIMENT` lists its keys, each with its meaning"
