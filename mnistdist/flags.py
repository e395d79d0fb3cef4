"""The flags of the program, and what is wrong with their values: all of it known before TensorFlow is imported."""

import math

from mnistdist.network import parse_address

# Kind, name, default, meaning. Names and defaults down to existing_servers are the text's, with those that it leaves
# commented out, except for num_gpus: the text has 2.
FLAGS = (
    ("string", "job_name", None, "What this process is: ps or worker."),
    ("integer", "task_index", None, "Which task of its job, from 0. Worker 0, the chief, initialises the model."),
    ("string", "ps_hosts", "192.168.233.201:2222", "Addresses of the ps tasks, host:port, separated by commas."),
    ("string", "worker_hosts", "192.168.233.202:2223,192.168.233.203:2224", "Addresses of the workers, likewise."),
    ("string", "data_dir", "/tmp/mnist-data", "Directory of the data set's files; MNIST is put there if it has none."),
    ("boolean", "download_only", False, "Put the data there and end; needs no job_name."),
    ("integer", "hidden_units", 100, "Units of the hidden layer."),
    ("integer", "train_steps", 1000000, "Global steps to train for: updates, or rounds with sync_replicas."),
    ("integer", "batch_size", 100, "Examples in a batch."),
    ("float", "learning_rate", 0.01, "Learning rate of the Adam optimizer."),
    ("boolean", "sync_replicas", False, "Average the gradients of several workers for each update."),
    ("integer", "replicas_to_aggregate", None, "How many, with sync_replicas. Default: as many as workers."),
    ("integer", "num_gpus", None, "GPUs of this machine to use, one for each of its workers. Default: all found."),
    ("boolean", "existing_servers", False, "Use servers that run at the workers' addresses; start none."),
    ("integer", "seed", None, "Makes the initial weights, and each worker's order of batches, repeatable."),
    ("string", "logdir", None, "Where worker 0 keeps checkpoints, and continues from the latest. Default: nowhere."),
    ("string", "design", "fast", "fast, or listing: a variable each, a fed batch and a run a step, as in the text."),
    ("integer", "log_every", 100, "A step in so many is printed."),
    ("float", "wait_timeout", 60.0, "Seconds to wait for a ps, for worker 0, and for a step to be done."),
    ("float", "ps_linger", 30.0, "Seconds for which a ps waits for workers of which it hears nothing any more."),
    ("boolean", "version", False, "Print the version and end."),
    ("boolean", "help", False, "Print this and end."),
)
_AT_LEAST_ONE = ("hidden_units", "train_steps", "batch_size", "log_every", "replicas_to_aggregate")
_ABOVE_ZERO = ("learning_rate", "wait_timeout", "ps_linger")


class UsageError(Exception):
    """A flag is missing or has a value that can't be used; the message names it."""


def parse(argv):
    """The flags with the values in ``argv`` (without the program's name), as an ``absl.flags.FlagValues``.

    Raises:
        UsageError: a flag is unknown or its value is of the wrong kind, or something is not a flag.
    """
    from absl import flags

    values = flags.FlagValues()
    for kind, name, default, meaning in FLAGS:
        getattr(flags, f"DEFINE_{kind}")(name, default, meaning, flag_values=values)
    try:
        rest = values(["mnistdist.distributed", *argv])[1:]
    except flags.Error as error:
        raise UsageError(" ".join(str(error).split())) from None
    if rest:
        raise UsageError(f"expected flags only, --name=value; got {rest[0]!r}")
    return values


def describe():
    """What each flag means and its default, a line each."""
    width = max(len(name) for _, name, _, _ in FLAGS) + 6
    return "\n".join(
        f"  --{name}".ljust(width) + meaning + ("" if default in (None, False) else f" Default: {default}")
        for _, name, default, meaning in FLAGS
    )


def check(flags):
    """The addresses of the cluster by job, ``{"ps": [...], "worker": [...]}``, if all flags make sense together.

    Raises:
        UsageError: for the first flag that does not.
    """
    if not flags.job_name:
        raise UsageError("Must specify an explicit `job_name`: --job_name=ps or --job_name=worker")
    if flags.task_index is None:
        raise UsageError("Must specify an explicit `task_index`: --task_index=0 for the first task of a job")
    if flags.job_name not in ("ps", "worker"):
        raise UsageError(f"--job_name: expected ps or worker, got {flags.job_name!r}")
    spec = _addresses(flags)
    tasks = len(spec[flags.job_name])
    if not 0 <= flags.task_index < tasks:
        raise UsageError(
            f"--task_index: there is no {flags.job_name} task {flags.task_index}: --{flags.job_name}_hosts "
            f"names {tasks}, from 0 to {tasks - 1}"
        )
    if flags.design not in ("fast", "listing"):
        raise UsageError(f"--design: expected fast or listing, got {flags.design!r}")
    for name in _AT_LEAST_ONE:
        if flags[name].value is not None and flags[name].value < 1:
            raise UsageError(f"--{name}: expected 1 or more, got {flags[name].value}")
    for name in _ABOVE_ZERO:
        if not (flags[name].value > 0 and math.isfinite(flags[name].value)):
            raise UsageError(f"--{name}: expected a number above 0, got {flags[name].value:g}")
    if flags.replicas_to_aggregate is not None and not flags.sync_replicas:
        raise UsageError("--replicas_to_aggregate: asynchronous training aggregates nothing; add --sync_replicas")
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
            if place in seen:
                raise UsageError(f"--{flag}: {address} is in --{seen[place]} already; each task has one of its own")
            seen[place] = flag
    return spec
