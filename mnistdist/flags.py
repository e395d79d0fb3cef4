"""The flags of the program, and the checks of their values, before TensorFlow is imported."""

import re

from mnistdist import _check
from mnistdist.cluster.network import parse_address
from mnistdist.training.spec import TrainSpec as Spec
from mnistdist.training.spec import check_rounds

# Kind, name, default, meaning. The names and defaults down to existing_servers are the classic program's, including
# those that are commented out there. The exception is num_gpus, whose default is 2 there.
FLAGS = (
    ("string", "job_name", None, "What this process is: ps or worker."),
    ("integer", "task_index", None, "Which task of its job, from 0. Worker 0, the chief, initialises the model."),
    ("string", "ps_hosts", "192.168.233.201:2222", "Addresses of the ps tasks, host:port, separated by commas."),
    ("string", "worker_hosts", "192.168.233.202:2223,192.168.233.203:2224", "Addresses of the workers, in that form."),
    ("string", "data_dir", "/tmp/mnist-data", "Directory of the data set; MNIST is written into a new or empty one."),
    ("boolean", "download_only", False, "Only write the data there; needs no job_name."),
    ("integer", "hidden_units", 100, "How many units the hidden layer has."),
    ("integer", "train_steps", 1000000, "Global step to end at: updates, or rounds with sync_replicas."),
    ("integer", "batch_size", Spec.batch_size, "How many examples a batch has."),
    ("float", "learning_rate", Spec.learning_rate, "Learning rate of the Adam optimizer."),
    ("boolean", "sync_replicas", False, "Average the gradients of several workers for each update."),
    ("integer", "replicas_to_aggregate", None, "How many gradients, with sync_replicas. Default: as many as workers."),
    ("integer", "num_gpus", None, "How many GPUs of this machine to use, one for each worker. Default: all."),
    ("boolean", "existing_servers", False, "Use the servers that run at the workers' addresses; start none."),
    ("integer", "seed", None, "Makes the initial weights and each worker's order of batches repeatable."),
    ("string", "logdir", None, "Where worker 0 keeps checkpoints; all workers need it to survive a lost ps."),
    ("integer", "save_steps", Spec.save_steps, "How many global steps lie between two checkpoints, with logdir."),
    ("string", "model", None, "Your own build_graph, package.module:function, in place of the classic network."),
    ("string", "design", Spec.design, "fast, or listing, which feeds one batch for each step."),
    ("integer", "log_every", 100, "Print one of this many steps."),
    ("float", "wait_timeout", Spec.step_timeout, "Seconds to wait for a ps, worker 0 or a step; a ps: 10 times that."),
    ("float", "ps_linger", 30.0, "Seconds of silence after which a ps gives up a worker."),
    ("boolean", "version", False, "Print the version and end."),
    ("boolean", "help", False, "Print this and end."),
)
# These are about one machine or one process. All others must be the same for all workers of a training. Of logdir, only
# its presence counts: worker 0 alone writes there, but each worker has to know whether it can survive a lost ps.
MAY_DIFFER = ("job_name", "task_index", "data_dir", "num_gpus", "existing_servers", "log_every", "wait_timeout")
MAY_DIFFER += ("ps_linger",)
_ABSLS_OWN = ("flagfile", "undefok")  # in every FlagValues; the first reads files, and may wait for ever


class UsageError(Exception):
    """A flag is missing or has a value that can't be used; the message names it."""


def parse(argv):
    """The flags with the values in ``argv`` (without the program's name), as an ``absl.flags.FlagValues``.

    Raises :class:`UsageError` if a flag is unknown, a value can't be used, or a word is not a flag.
    """
    from absl import flags

    values, negations = flags.FlagValues(), {f"no{name}" for kind, name, _, _ in FLAGS if kind == "boolean"}
    for kind, name, default, meaning in FLAGS:
        getattr(flags, f"DEFINE_{kind}")(name, default, meaning, flag_values=values)
        values[name].parser = _Lenient(values[name].parser)
    for word in argv:
        name, equals, _ = word.lstrip("-").partition("=")
        if word.startswith("-") and name in _ABSLS_OWN:
            raise UsageError(f"Unknown command line flag {name!r}")
        if word.startswith("-") and equals and name in negations:
            raise UsageError(f"--{name} takes no value: write --{name}, or --{name[2:]}=false")
    try:
        rest = values(["mnistdist.distributed", *argv])[1:]
    except flags.Error as error:
        raise UsageError(" ".join(str(error).split())) from None
    if rest:
        raise UsageError(f"expected flags only, --name=value; got {rest[0]!r}")
    for name in ["help", "version", *(name for _, name, _, _ in FLAGS)]:
        values[name].value = argument(name, values[name].value)
        if name in ("help", "version") and values[name].value:
            break  # whatever the others are
    return values


class _Lenient:
    """Keeps a text that is not a value of the flag's kind, so that :mod:`~mnistdist._check` refuses it."""

    def __init__(self, parser):
        self._parser = parser

    def __getattr__(self, name):
        return getattr(self._parser, name)

    def parse(self, text):
        try:
            return self._parser.parse(text)
        except ValueError:
            return text


def argument(name, value):
    """The value of a flag, None if it is not given. Raises :class:`UsageError` if the value can't be used."""
    # If --logdir is followed by a space and an empty variable, its value is the next flag.
    if name in _check.PATHS and value is not None and value.startswith("-"):
        raise UsageError(f"--{name}: expected the name of a directory, got {value!r}")
    try:
        return _check.argument(name, value, f"--{name}", optional=True)
    except (TypeError, ValueError) as error:
        raise UsageError(str(error)) from None


def describe():
    """A line for each flag, with its meaning and default, and which flags may differ between the tasks."""
    width = max(len(name) for _, name, _, _ in FLAGS) + 6
    lines = [
        f"  --{name}".ljust(width) + meaning + ("" if default in (None, False) else f" Default: {default}")
        for _, name, default, meaning in FLAGS
    ]
    free = ", ".join(f"--{name}" for name in MAY_DIFFER)
    lines += ["", f"These may differ between the tasks of a training: {free}."]
    lines += ["All others must be the same for every worker, and the addresses must be the same for every ps. But each"]
    lines += ["machine may have other names for the hosts, and another folder for --logdir."]
    return "\n".join(lines)


def shared(flags, spec):
    """The flags that all workers must have in common, ``{name: value}``; for a ps, the two lists of addresses."""
    values = {name: flags[name].value for _, name, _, _ in FLAGS if name not in MAY_DIFFER}
    values |= {f"{job}_hosts": ",".join(addresses) for job, addresses in spec.items()}
    if flags.sync_replicas:
        values["replicas_to_aggregate"] = flags.replicas_to_aggregate or len(spec["worker"])
    return values if flags.job_name == "worker" else {name: values[name] for name in ("ps_hosts", "worker_hosts")}


def difference(here, there):
    """In words, which flags from :func:`shared` differ between two tasks; "" if none does."""

    def shown(value):
        return "not given" if value is None else value

    names = [name for name in here if _essence(name, here[name]) != _essence(name, there.get(name))]
    return ", ".join(f"--{name} is {shown(here[name])} here and {shown(there.get(name))} there" for name in names)


def _essence(name, value):
    """The part of a flag that has to be the same for all; each machine may name hosts and folders in its own way."""
    if value is not None and name.endswith("_hosts"):
        return [parse_address(address)[1] for address in value.split(",")]
    return value is not None if name == "logdir" else value


def check(flags):
    """The addresses of the cluster by job, ``{"ps": [...], "worker": [...]}``, if all flags make sense together.

    Raises :class:`UsageError` for the first flag that doesn't.
    """
    if not flags.job_name:
        raise UsageError("Must specify an explicit `job_name`: --job_name=ps or --job_name=worker")
    if flags.task_index is None:
        raise UsageError("Must specify an explicit `task_index`: --task_index=0 for the first task of a job")
    spec, job, index = _addresses(flags), flags.job_name, flags.task_index
    if index >= (n := len(spec[job])):
        raise UsageError(f"--task_index: there is no {job} task {index}: --{job}_hosts names {n}, from 0 to {n - 1}")
    try:
        check_rounds(flags.sync_replicas, flags.replicas_to_aggregate, "--replicas_to_aggregate", "--sync_replicas")
    except ValueError as error:
        raise UsageError(str(error)) from None
    if flags.model is not None and not re.fullmatch(r"\w+(\.\w+)*:\w+", flags.model):
        raise UsageError(f"--model: expected package.module:function, got {flags.model!r}")
    if flags.job_name == "ps" and flags.existing_servers:
        raise UsageError("--existing_servers: if the ps runs already, there is none to start; it is for workers")
    return spec


def _addresses(flags):
    spec, seen = {}, {}
    for job in ("ps", "worker"):
        flag = f"{job}_hosts"
        spec[job] = [address.strip() for address in flags[flag].value.split(",")]
        for address in spec[job]:
            try:
                place = parse_address(address)
            except ValueError as error:
                raise UsageError(f"--{flag}: {error}") from None
            place = place[0].lower(), place[1]
            if place in seen:
                raise UsageError(f"--{flag}: {address} is in --{seen[place]} already; each task has one of its own")
            seen[place] = flag
    return spec
