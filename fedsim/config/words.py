"""Words of other tools for fedsim's keys and options, and what to write instead.

The messages of `fedsim.config.compose` say that there is no such key; the tables below say which one was meant.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from fedsim.config.option_files import config_folders, groups_of, keys_of
from fedsim.config.request import Request

KEYS: Mapping[str, str] = {
    **dict.fromkeys(
        ("lr", "learning_rate", "client.lr", "client.learning_rate", "local_lr", "client_lr", "optimizer.lr", "eta"),
        "client.optimizer.lr={}",
    ),
    **dict.fromkeys(("server_lr", "server.lr", "global_lr"), "aggregator.server_optimizer.lr={}"),
    **dict.fromkeys(("momentum", "optimizer.momentum"), "client.optimizer.momentum={}"),
    **dict.fromkeys(("weight_decay", "optimizer.weight_decay", "wd"), "client.optimizer.weight_decay={}"),
    **dict.fromkeys(("optimizer", "optim", "client_optimizer", "client.optim"), "client/optimizer={}"),
    **dict.fromkeys(("server_optimizer", "server.optimizer"), "aggregator/server_optimizer={}"),
    **dict.fromkeys(("alpha", "dirichlet_alpha", "dir_alpha", "beta"), "partition=dirichlet partition.alpha={}"),
    **dict.fromkeys(
        ("clients", "n_clients", "nclients", "num_users", "total_clients", "client_num", "population", "k"),
        "num_clients={}",
    ),
    **dict.fromkeys(
        ("participation", "participation_rate", "fraction", "frac", "client_fraction", "sample_fraction", "c"),
        "sampler.fraction={}",
    ),
    **dict.fromkeys(
        ("clients_per_round", "cohort_size", "cohort", "num_sampled", "clients_per_iteration"), "sampler.cohort_size={}"
    ),
    **dict.fromkeys(("strategy", "algorithm", "algo", "method", "server", "fl_algorithm", "agg"), "aggregator={}"),
    **dict.fromkeys(("mu", "proximal_mu", "prox_mu"), "aggregator=fedprox aggregator.correction.mu={}"),
    **dict.fromkeys(("epochs", "local_epochs", "num_epochs", "e", "client.local_epochs"), "client.epochs={}"),
    **dict.fromkeys(("steps", "local_steps", "local_iterations"), "client.steps={}"),
    **dict.fromkeys(("batch_size", "batch", "bs", "b", "client.batch"), "client.batch_size={}"),
    **dict.fromkeys(("clip", "grad_clip", "clip_norm", "max_grad_norm", "gradient_clip_val"), "client.clip_norm={}"),
    **dict.fromkeys(
        (
            "num_rounds",
            "n_rounds",
            "global_rounds",
            "comm_round",
            "comm_rounds",
            "communication_rounds",
            "iterations",
            "t",
        ),
        "rounds={}",
    ),
    **dict.fromkeys(
        ("hidden_size", "hidden", "hidden_dim", "units", "model.hidden", "model.units"), "model.hidden_size={}"
    ),
    **dict.fromkeys(("num_layers", "layers", "n_layers", "model.layers", "model.n_layers"), "model.num_layers={}"),
    **dict.fromkeys(("dropout",), "model.dropout={}"),
    **dict.fromkeys(("embedding_size", "embedding_dim", "model.embedding_dim"), "model.embedding_size={}"),
    **dict.fromkeys(("proj_size", "model.proj_size"), "model.recurrent_projection={}"),
    **dict.fromkeys(("tie_weights", "tied", "weight_tying", "model.tie_weights"), "model.tied_embeddings={}"),
    **dict.fromkeys(("bidirectional",), "model.bidirectional={}"),
    **dict.fromkeys(("pooling",), "model.pooling={}"),
    **dict.fromkeys(("cell", "rnn", "rnn_type", "net", "network", "arch"), "model={}"),
    **dict.fromkeys(("dataset", "task", "data_set"), "data={}"),
    **dict.fromkeys(("path", "data_path", "file", "csv", "data_dir", "data.file"), "data.path={}"),
    **dict.fromkeys(("target", "target_column", "label"), "data.target_column={}"),
    **dict.fromkeys(("split", "partitioner", "distribution", "iid", "non_iid"), "partition=iid or partition=dirichlet"),
    **dict.fromkeys(("gpu", "cuda", "use_gpu", "use_cuda", "gpus", "accelerator"), "device=cuda (or cpu, or auto)"),
    **dict.fromkeys(("precision", "amp", "fp16"), "dtype=float32 or dtype=float64"),
    **dict.fromkeys(("random_seed", "random_state", "manual_seed", "seeds"), "seed={} (several: -m seed=1,2,3)"),
    **dict.fromkeys(("num_threads", "n_threads", "cores", "cpus"), "threads={}"),
    **dict.fromkeys(
        ("workers", "n_jobs", "num_workers", "jobs"), "-m ... hydra.sweeper.max_batch_size={} (jobs at a time)"
    ),
    **dict.fromkeys(
        (
            "output_dir",
            "output",
            "out",
            "outdir",
            "out_dir",
            "save_dir",
            "log_dir",
            "logdir",
            "dir",
            "run_dir",
            "run.dir",
        ),
        "hydra.run.dir={} (a sweep: hydra.sweep.dir={})",
    ),
    **dict.fromkeys(("patience", "early_stopping"), "stop.patience={}"),
    **dict.fromkeys(("verbose", "quiet", "silent", "progress"), "console=none, plain or rich"),
    **dict.fromkeys(("eval_every", "test_every", "eval_interval", "eval_frequency"), "eval.every={}"),
    **dict.fromkeys(
        ("validation_fraction", "validation_split", "val_split", "val_fraction"), "eval.validation_fraction={}"
    ),
    **dict.fromkeys(("unseen_clients", "unseen", "holdout_clients", "test_clients"), "eval.unseen_clients={}"),
    **dict.fromkeys(("save_every", "checkpoint_every"), "checkpoint.every={}"),
    **dict.fromkeys(("compression", "compressor", "quantization"), "link/up=topk, randk, quantize or sign"),
    **dict.fromkeys(
        ("epsilon", "noise_multiplier", "dp"),
        "privacy=central_dp privacy.target_epsilon=... (or privacy.noise_multiplier)",
    ),
    **dict.fromkeys(("byzantine", "malicious", "attackers"), "attack=sign_flip attack.fraction={}"),
    **dict.fromkeys(("wandb", "use_wandb"), "tracker=wandb"),
    **dict.fromkeys(("mlflow",), "tracker=mlflow"),
    **dict.fromkeys(("tensorboard",), "tracker=tensorboard"),
    **dict.fromkeys(("resume", "resume_from"), "fedsim resume RUN_DIR, another command"),
    **dict.fromkeys(("checkpoint_path", "pretrained", "load", "weights"), "init_from={}"),
}
"""A key of another tool: what to write; ``{}`` is the value."""

OPTIONS: Mapping[str, Mapping[str, str]] = {
    "partition": {
        **dict.fromkeys(
            ("non_iid", "noniid", "dir", "lda", "heterogeneous", "label_skew", "hetero"),
            "partition=dirichlet partition.alpha=0.3 (labels), partition=quantity (sizes), or partition=natural",
        ),
        **dict.fromkeys(("pathological", "classes_per_client", "k_classes"), "partition=labels_per_client"),
        **dict.fromkeys(("sorted", "shard", "mcmahan"), "partition=shards"),
        **dict.fromkeys(("random", "homogeneous", "uniform"), "partition=iid"),
        **dict.fromkeys(("user", "users", "by_user", "client", "real", "column"), "partition=natural"),
    },
    "model": {
        **dict.fromkeys(("simplernn", "simple_rnn", "vanilla", "elman"), "model=rnn"),
        **dict.fromkeys(
            ("transformer", "mlp", "cnn", "resnet", "bert", "gpt", "linear", "logistic", "attention", "bilstm", "tcn"),
            "fedsim trains recurrent models; to compare, model=gru, lstm or rnn",
        ),
    },
    "data": {
        **dict.fromkeys(
            (
                "mnist",
                "fashion_mnist",
                "fmnist",
                "emnist",
                "femnist",
                "cifar",
                "cifar10",
                "cifar100",
                "celeba",
                "imagenet",
            ),
            "fedsim's data are sequences, not pictures: data=japanese_vowels, shakespeare, har or ucr, your own table "
            "with data=csv data.path=FILE, or a text with data=text",
        ),
        **dict.fromkeys(("table", "tabular", "pandas", "parquet", "excel"), "data=csv data.path=FILE"),
        **dict.fromkeys(("txt", "chars", "play", "corpus"), "data=text data.path=FILE"),
        **dict.fromkeys(("next_word", "nwp", "word", "lm", "language_model"), "data=words data.path=FILE"),
        **dict.fromkeys(("stack_overflow", "so", "so_nwp"), "data=stackoverflow data.path=FILE_OR_FOLDER"),
        **dict.fromkeys(("ecg", "ecg5000", "uea"), "data=ucr data.name=ECG5000"),
        **dict.fromkeys(("turbofan", "nasa", "fd001"), "data=cmapss data.path=FOLDER"),
        **dict.fromkeys(("random", "toy", "dummy", "fake"), "data=synthetic"),
    },
    "aggregator": {
        **dict.fromkeys(("average", "averaging", "fed_avg"), "aggregator=fedavg"),
        **dict.fromkeys(("prox", "fed_prox"), "aggregator=fedprox"),
        **dict.fromkeys(("fedopt", "adam"), "aggregator=fedadam, fedyogi or fedadagrad"),
        **dict.fromkeys(("q_fedavg", "qfedavg", "q_ffl"), "aggregator=qffedavg"),
        **dict.fromkeys(("trimmed", "trim"), "aggregator=trimmed_mean"),
        **dict.fromkeys(("multikrum",), "aggregator=multi_krum"),
        **dict.fromkeys(("rfa", "geomed", "geometric"), "aggregator=geometric_median"),
        **dict.fromkeys(("fedbuff", "async", "asynchronous"), "schedule=fedbuff"),
        **dict.fromkeys(("fedasync",), "schedule=fedasync"),
        **dict.fromkeys(("ditto",), "personalize=ditto"),
        **dict.fromkeys(("apfl",), "personalize=apfl"),
        **dict.fromkeys(("knnper", "knn_per", "knn"), "personalize=knn_per"),
        **dict.fromkeys(("perfedavg", "per_fed_avg", "fedmeta", "maml"), "aggregator=per_fedavg"),
        **dict.fromkeys(("p_fed_me",), "aggregator=pfedme"),
        **dict.fromkeys(("lg", "lgfedavg"), "aggregator=lg_fedavg"),
        **dict.fromkeys(("mime_lite",), "aggregator=mimelite"),
        **dict.fromkeys(("attentive",), "aggregator=fedatt"),
        **dict.fromkeys(("ifca", "hypcluster"), "schedule=ifca"),
        **dict.fromkeys(("flhc", "fl_hc"), "schedule=flhc"),
        **dict.fromkeys(("hierfavg", "hierarchical", "edge", "edges"), "schedule=hierfavg"),
        **dict.fromkeys(("dpsgd", "d_psgd", "gossip", "decentralized", "p2p"), "schedule=dpsgd aggregator=mean"),
        **dict.fromkeys(("dp_fedavg", "dpfedavg", "dp"), "privacy=central_dp"),
        **dict.fromkeys(("secagg", "secure"), "privacy=secure_aggregation"),
        **dict.fromkeys(("centralized", "centralised", "pooled"), "baseline=centralised"),
    },
    "link": {
        **dict.fromkeys(("topk", "top_k"), "link/up=topk"),
        **dict.fromkeys(("randk", "rand_k"), "link/up=randk"),
        **dict.fromkeys(("quantize", "quantise", "qsgd", "quantization", "int8"), "link/up=quantize"),
        **dict.fromkeys(("sign", "signsgd"), "link/up=sign"),
    },
    "privacy": {
        **dict.fromkeys(("dp", "dpfedavg", "dp_fedavg", "client_dp", "cdp", "user_dp"), "privacy=central_dp"),
        **dict.fromkeys(("ldp", "local"), "privacy=local_dp"),
        **dict.fromkeys(("secagg", "secure"), "privacy=secure_aggregation"),
    },
    "personalize": {
        **dict.fromkeys(("fine_tune", "finetuning", "local"), "personalize=finetune"),
        **dict.fromkeys(("knn", "knnper"), "personalize=knn_per"),
    },
    "baseline": {**dict.fromkeys(("centralized", "central", "pooled"), "baseline=centralised")},
    "schedule": {
        **dict.fromkeys(("async", "asynchronous"), "schedule=fedbuff or fedasync"),
        **dict.fromkeys(("sync",), "schedule=synchronous"),
        **dict.fromkeys(("hierarchical", "edge", "edges", "layers"), "schedule=hierfavg"),
        **dict.fromkeys(("gossip", "d_psgd", "decentralized", "p2p"), "schedule=dpsgd aggregator=mean"),
    },
    "client/optimizer": {**dict.fromkeys(("rmsprop", "adagrad", "momentum"), "client/optimizer=sgd, adam or adamw")},
    "console": {**dict.fromkeys(("quiet", "off", "false", "silent"), "console=none")},
    "tracker": {
        **dict.fromkeys(("tb",), "tracker=tensorboard"),
        **dict.fromkeys(("weights_and_biases",), "tracker=wandb"),
    },
    "system": {**dict.fromkeys(("heterogeneous", "stragglers"), "system=devices")},
}
"""For every group, an option of another tool: what to write."""

VALUES: Mapping[tuple[str, str], str] = {
    ("device", "gpu"): "device=cuda",
    ("device", "mps"): "device=cpu, as Apple's GPUs are not used",
    **{
        ("dtype", word): "dtype=float32"
        for word in ("float", "fp32", "single", "float16", "half", "bf16", "bfloat16", "fp16")
    },
    **{("dtype", word): "dtype=float64" for word in ("double", "fp64")},
}
"""A value of another tool for a key that exists: what to write."""


def explained(message: str, request: Request) -> str:
    """Add to a message about a word that fedsim does not have which of its words was meant, if that is known.

    Args:
        message: of a `UserError` about the request, which begins with the override.
        request: what was typed.
    """
    if message.startswith("cannot read '") and "=" in request.overrides[1:-1]:
        place = request.overrides.index("=", 1)
        words = "".join(request.overrides[max(place - 1, 0) : place + 2])
        return f"{' '.join(request.overrides)}: there are no spaces around =; write {words}"
    key, equals, rest = message.partition("=")
    value, colon, said = rest.partition(": ")
    if not equals or not colon or key not in {_key(text) for text in request.overrides}:
        return message
    if said.startswith("no such key"):
        way = _for_key(key.lstrip("+"), value, request)
        return message if way is None else f"{key}={value}: no such key; {way}"
    if said.startswith("no such option"):
        way = OPTIONS.get(key, {}).get(_plain(value))
        there = said.partition("; available: ")[2]
        return message if way is None else f"{key}={value}: no such option; {_meant(way)}; available: {there}"
    if way := VALUES.get((key, _plain(value))):
        return f"{key}={value}: {re.sub(r' [(]did you mean .*', '', said)}; {_meant(way)}"
    if request.multirun and value.startswith("[") and not said.startswith("choose"):
        return f"{message}; a sweep over several values has no brackets: {key}={value[1:-1].replace(', ', ',')}"
    if found := re.fullmatch(r"(\d+)-(\d+)", value):
        return f"{message}; a sweep over a range is -m {key}=range({found[1]},{int(found[2]) + 1})"
    return message


def _key(text: str) -> str:
    return text.partition("=")[0]


def _plain(word: str) -> str:
    return word.lower().replace("-", "_").strip("'\"")


def _meant(way: str) -> str:
    return way if " " in way and "=" not in way.split()[0] else f"write {way}"


def _for_key(key: str, value: str, request: Request) -> str | None:
    """What to write for a key that does not exist, or not with the options that were chosen."""
    folders = config_folders(request.config_dir)
    groups = groups_of(folders)
    way = KEYS.get(_plain(key))
    if way is not None:
        filled = way.replace("{}", value)
        group, _, option = filled.partition("=")
        if group in groups and option == value and option not in groups[group]:
            filled = OPTIONS.get(group, {}).get(_plain(option), filled)
        typed = set(request.overrides)
        return _meant(" ".join(word for word in filled.split() if word not in typed))
    with_key = {
        group: [
            option
            for option in groups[group]
            if key in keys_of(folders, groups, [*request.overrides, f"{group}={option}"])
        ]
        for group in groups
        if key.startswith(f"{group.replace('/', '.')}.")
    }
    for group in sorted(with_key, key=len):
        if with_key[group]:
            return f"it belongs to {group}={_listed(with_key[group])}: choose that too"
    last = f".{_plain(key).rpartition('.')[2]}"
    known = [name for name in keys_of(folders, groups, request.overrides) if name.endswith(last)]
    return f"write {_listed([f'{name}={value}' for name in known])}" if 0 < len(known) < 4 else None


def _listed(words: Sequence[str]) -> str:
    return " or ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]
