"""The classic program: one task of a cluster that trains on MNIST.

Start one process for each task. All get the same addresses, and each gets its own --job_name and --task_index:

    python -m mnistdist.distributed --job_name=ps --task_index=0
    python -m mnistdist.distributed --job_name=worker --task_index=0
    python -m mnistdist.distributed --job_name=worker --task_index=1

`mnistdist run` starts all of them on this machine. Under Slurm's srun, and where TF_CONFIG is set, no flags are needed.
"""

import contextlib
import functools
import importlib
import logging
import math
import os
import signal
import sys
import time
from types import SimpleNamespace

from mnistdist import __version__
from mnistdist._output import end_now, guarded, say
from mnistdist.cluster import pinning
from mnistdist.cluster.network import BUSY, parse_address, wait_for_address, why_no_port, without_proxies
from mnistdist.flags import UsageError, check, describe, difference, parse, shared
from mnistdist.resolver import from_environment
from mnistdist.training.logdir import prepare

# Flags that are arguments of run_worker of the same name.
SAME = ("batch_size", "learning_rate", "replicas_to_aggregate", "seed", "design", "logdir", "save_steps")


def main(argv=None):
    """Runs the program with ``argv`` (default: the command line); returns the exit status."""
    return guarded("mnistdist.distributed", lambda: _main(sys.argv[1:] if argv is None else argv), UsageError)


def _main(argv):
    flags = parse(argv)
    if flags.help:
        say(f"{(__doc__ or __name__).strip()}\n\nflags:\n{describe()}")
    elif flags.version:
        say(f"mnistdist {__version__}")
    elif flags.download_only:
        _read_data(flags)
        say(f"The data is in {flags.data_dir}")
    else:
        identify(flags, os.environ)
        spec = check(flags)
        (_serve if flags.job_name == "ps" else _work)(flags, spec)
    return 0


def identify(flags, environ):
    """Sets the flags that say who this task is from the environment, if ``--job_name`` is not given."""
    try:
        found = {} if flags.job_name else from_environment(environ)
    except ValueError as error:
        raise UsageError(str(error)) from None
    for name, value in found.items():
        if not flags[name].present:
            flags[name].value = value


def run():
    """Runs the program of this process to its end."""
    # TensorFlow's calls return to Python and its handler of Ctrl-C only when they are done, which may be never.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    status = 1
    try:
        status = main()
    finally:
        end_now(status)  # an ordinary exit would wait for sessions whose other side may have gone


def _serve(flags, spec):
    """Is a ps: holds the variables until no worker needs them any more."""
    _introduce(flags)
    server, _ = _start_server(flags, spec)
    from mnistdist.training.heartbeat import attend

    linger, patience, said = flags.ps_linger, 10 * flags.wait_timeout, 0

    def on_wait(left):
        nonlocal said
        if patience - left > said + 60:
            said += 60
            say(f"ps {flags.task_index}: no worker has come yet ({left:.0f} s left)")

    options = {"on_wait": on_wait, "check": functools.partial(_compare, flags, shared(flags, spec))}
    if not attend(server.target, spec, flags.task_index, linger=linger, patience=patience, **options):
        raise TimeoutError(f"every worker has been silent for {linger:g} s (--ps_linger), and none has finished")


def _work(flags, spec):
    """Is a worker: trains, evaluates, and prints what the classic program prints."""
    started = time.monotonic()
    if flags.logdir is not None and flags.task_index == 0:
        prepare(flags.logdir, "--logdir")
    data = _read_data(flags)
    _introduce(flags)
    index = flags.task_index
    # The worker's own server has to live as long as this function, because it ends with the object.
    server, device = (_existing_server if flags.existing_servers else _start_server)(flags, spec)
    from mnistdist.model import build_model
    from mnistdist.training.heartbeat import Presence
    from mnistdist.training.worker import run_worker

    build_graph = _model(flags) if flags.model else functools.partial(build_model, flags.hidden_units)
    said = -math.inf

    def on_wait(what, address, seconds_left):
        nonlocal said
        if time.monotonic() - said > 10:
            said = time.monotonic()
            say(f"Worker {index}: waiting for {what} at {address} ({seconds_left:.0f} s left)")

    def on_step(step):
        if step.local_step % flags.log_every == 0:
            done = f"training step {step.local_step} done (global step: {step.global_step_after})"
            say(f"{time.time():f}: Worker {index}: {done}")

    left = max(flags.wait_timeout - (time.monotonic() - started), 1)
    wait = functools.partial(_wait_for_ps, left, on_wait, flags.wait_timeout)
    wait(spec | {"ps": spec["ps"][:1]})
    presence, own = Presence(server.target, spec, index, flags.wait_timeout), shared(flags, spec)
    on_late_chief = functools.partial(on_wait, "worker:0", spec["worker"][0])
    compare = functools.partial(_compare, flags, own)
    presence.compare(own, compare, on_late_chief, lambda found: flags.existing_servers and difference(own, found))
    wait(spec)
    options = {name: flags[name].value for name in SAME}
    options |= dict.fromkeys(("wait_timeout", "step_timeout"), flags.wait_timeout)
    options |= {"steps": flags.train_steps, "sync": flags.sync_replicas, "device": device, "data": data}
    with presence:
        result = run_worker(server.target, spec, index, build_graph=build_graph, on_step=on_step, say=say, **options)
        presence.finish()
    if result.validation is not None:  # otherwise a line has said why
        say(f"After {result.global_step} training step(s), validation cross entropy = {result.validation.loss:g}")
        say(f"validation accuracy = {result.validation.accuracy:g}")


def _wait_for_ps(seconds, on_wait, limit, spec):
    from mnistdist.training.session import wait_for_ps

    try:
        wait_for_ps(spec, seconds, on_wait, limit=limit)
    except TimeoutError as error:
        raise TimeoutError(f"{error}: is it running, and is its address in --ps_hosts right?") from None


def _model(flags):
    """The function that --model names."""
    module, _, name = flags.model.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UsageError(f"--model: {error}: is the folder of {module} in PYTHONPATH?") from None
    if not callable(found):
        raise UsageError(f"--model: expected a function, got {found!r}")
    return found


def _existing_server(flags, spec):
    """A stand-in for the server that runs at this worker's address, and the name of the worker's device."""
    _import_tensorflow()
    address = spec["worker"][flags.task_index]
    say(f"Using existing server at: grpc://{address}")
    wait_for_address(address, flags.wait_timeout, what=f"the existing server of worker:{flags.task_index}")
    return SimpleNamespace(target=f"grpc://{address}"), "gpu:0" if flags.num_gpus != 0 else "cpu:0"


def _compare(flags, own, found):
    """Raises UsageError if these flags differ from those that worker 0 has left on the ps.

    In worker 0 itself, which may have been started again, these are the flags of the training that the ps tasks hold.
    """
    if not (words := difference(own, found)):
        return
    if flags.job_name == "ps" or flags.task_index:
        raise UsageError(f"worker 0 has other flags: {words}; start all tasks with the same (see --help)")
    if not flags.existing_servers:
        again = "go on with the same, or end the ps tasks to begin anew"
        raise UsageError(f"the training that the ps tasks hold has other flags: {words}; {again}")
    say(f"Worker 0: the last training on these servers had other flags: {words}")


def _introduce(flags):
    say(f"job name = {flags.job_name}")
    say(f"task index = {flags.task_index}")


def _read_data(flags):
    from mnistdist.datasets import read_for_training

    seed = None if flags.seed is None else [flags.seed, flags.task_index or 0]
    try:
        return read_for_training(flags.data_dir, seed)
    except (ValueError, OSError) as error:
        raise UsageError(f"--data_dir: {error}") from None


def _start_server(flags, spec):
    """Starts this task's server on its own devices; returns it and the name of the worker's device."""
    address, flag = spec[flags.job_name][flags.task_index], f"--{flags.job_name}_hosts"
    if why := why_no_port(address):
        raise UsageError(f"{flag}: port of {address} is {why}")
    pin = _pin(flags, spec)
    for name, value in pin.env.items():
        os.environ.setdefault(name, value)
    os.environ["CUDA_VISIBLE_DEVICES"] = pin.env["CUDA_VISIBLE_DEVICES"]
    tf = _import_tensorflow()
    from mnistdist.cluster.task import server_config

    try:
        server = tf.train.Server(tf.train.ClusterSpec(spec), flags.job_name, flags.task_index, config=server_config())
        return server, pin.tf_device
    except tf.errors.UnknownError:  # another process has been quicker
        raise UsageError(f"{flag}: port of {address} is {why_no_port(address) or BUSY}") from None


def _pin(flags, spec):
    """The share of the machine that this task gets, if the tasks with the same host are on it too."""
    host, _ = parse_address(spec[flags.job_name][flags.task_index])
    here = {job: [i for i, each in enumerate(spec[job]) if parse_address(each)[0] == host] for job in spec}
    try:
        pins = pinning.assign(len(here["ps"]), max(len(here["worker"]), 1), num_gpus=flags.num_gpus)
    except ValueError as error:
        raise UsageError(str(error) if flags.num_gpus is None else f"--num_gpus: {error}") from None
    return pins[flags.job_name, here[flags.job_name].index(flags.task_index)]


def _import_tensorflow():
    for name in os.environ.keys() - without_proxies(os.environ).keys():
        del os.environ[name]
    quiet = "TF_CPP_MIN_LOG_LEVEL" not in os.environ
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if quiet:
        logging.getLogger("tensorflow").setLevel(logging.ERROR)
    with _no_stderr() if quiet else contextlib.nullcontext():
        import tensorflow.compat.v1 as tf
    tf.disable_v2_behavior()
    return tf


@contextlib.contextmanager
def _no_stderr():
    """Keeps the process's stderr shut, because TensorFlow's libraries write there before they read any setting."""
    sys.stderr.flush()
    kept, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(null)


if __name__ == "__main__":
    run()
