"""Unlearning as a script, in the form of TRL's own scripts (`pip install "hf_unlearn[trl]"`).

# Full training

```bash
accelerate launch examples/unlearn.py \
    --model_name_or_path Qwen/Qwen3-0.6B \
    --dataset_name my-org/what-has-to-go \
    --retain_dataset_name my-org/what-has-to-stay \
    --learning_rate 1e-5 \
    --num_train_epochs 5 \
    --eval_strategy epoch \
    --output_dir Qwen3-0.6B-unlearned
```

# LoRA, with the settings in a file

```bash
accelerate launch examples/unlearn.py --config examples/unlearn.yaml --use_peft
```

What is saved has not been shown to have forgotten anything: `hf-unlearn audit` tests it.
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trl import ModelConfig, ScriptArguments, TrlParser, get_peft_config, get_quantization_config
from yaml import YAMLError

from hf_unlearn import HfUnlearnError, RequestError, UnlearnConfig, UnlearnTrainer
from hf_unlearn.data.readers import READERS, load_hub


@dataclass
class UnlearnScriptArguments(ScriptArguments):
    """Arguments of this script, besides those of all scripts of TRL.

    `dataset_name` is what is to be forgotten: an id on the Hub, or the path of a file or folder. `dataset_train_split`
    is the split that is forgotten.

    Args:
        retain_dataset_name (`str`, *optional*):
            What is to be kept. By default the data set of `dataset_name`, of which the splits `forget` and `retain`
            are read, or the false and the true rows of a `label` column.
        retain_dataset_config (`str`, *optional*):
            Its configuration.
        retain_train_split (`str`, *optional*, defaults to `"train"`):
            Its split.
    """

    retain_dataset_name: str | None = field(
        default=None, metadata={"help": "What is to be kept; by default it is read from dataset_name too."}
    )
    retain_dataset_config: str | None = field(
        default=None, metadata={"help": "Configuration of the data set that is to be kept."}
    )
    retain_train_split: str = field(default="train", metadata={"help": "Split of what is to be kept."})


def load(name: str, config: str | None, split: str | None, streaming: bool) -> Any:
    """One split of a data set, or all of them; a path is left to the trainer."""
    if Path(name).exists() or Path(name).suffix.lower() in READERS:
        return name
    return load_hub(name, config, split, streaming=streaming)


def load_sets(args: UnlearnScriptArguments) -> tuple[Any, Any]:
    """What is to be forgotten, and what is to be kept."""
    if args.dataset_name is None:
        raise RequestError("--dataset_name is missing: name what is to be forgotten")
    if args.retain_dataset_name is None:
        both = load(args.dataset_name, args.dataset_config, None, streaming=False)
        return both, both
    # Only what is kept can be streamed: an epoch goes through all that is forgotten.
    forget = load(args.dataset_name, args.dataset_config, args.dataset_train_split, streaming=False)
    retain = load(
        args.retain_dataset_name, args.retain_dataset_config, args.retain_train_split, args.dataset_streaming
    )
    return forget, retain


def main(script_args: UnlearnScriptArguments, training_args: UnlearnConfig, model_args: ModelConfig) -> None:
    """Trains and saves, and pushes if `push_to_hub` is set."""
    if model_args.model_name_or_path is None:
        raise RequestError("--model_name_or_path is missing: name the model that has to forget")
    model_init_kwargs = {
        "revision": model_args.model_revision,
        "attn_implementation": model_args.attn_implementation,
        "dtype": model_args.dtype,
        "quantization_config": get_quantization_config(model_args),
        **(training_args.model_init_kwargs or {}),
    }
    training_args.model_init_kwargs = {key: value for key, value in model_init_kwargs.items() if value is not None}

    forget, retain = load_sets(script_args)
    trainer = UnlearnTrainer(
        model=model_args.model_name_or_path,
        args=training_args,
        forget_dataset=forget,
        retain_dataset=retain,
        peft_config=get_peft_config(model_args),
    )
    trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint)

    trainer.save_model(training_args.output_dir)
    trainer.accelerator.print(f"Model saved to {training_args.output_dir}; hf-unlearn audit tests it.")
    if training_args.push_to_hub:
        trainer.push_to_hub()


def run() -> int:
    """The exit code: 2 for a wrong request, 3 if the machine or the network failed."""
    parser = TrlParser(
        (UnlearnScriptArguments, UnlearnConfig, ModelConfig), usage="%(prog)s [options]; --help lists them"
    )
    try:
        try:
            arguments = parser.parse_args_and_config()
        except (ValueError, OSError, YAMLError) as error:  # an argument, key or file that is not there
            parser.error(" ".join(str(error).split()))
        main(*arguments)
    except HfUnlearnError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(run())
