"""Distributed TensorFlow training on real local processes, driven from notebooks.

``import mnistdist`` imports neither TensorFlow nor ipyparallel; each name is loaded when it is first used. The rooms,
each of which imports only what stands above it, or before it in its line:

    errors  _check  _wait  _files     errors; what arguments may be; waiting with a limit; whole-or-nothing writes
    style  idx  data/                 the figures' colours; the four files of MNIST; the files themselves
    steps  datasets                   what a worker notes of each step; batches
    diagrams  plots  source           drawings; figures; show()
    results  placement  model         what a training brings home; where ops run; the classic program's network
    cluster/                          Cluster: its processes and engines, their network, GPUs and cores
        linux  network  pinning       starting and ending processes; addresses, private networks; who gets what
        recovery  hosts               who is stopped, who begins again; which task is on which host
        task  forkserver              becomes a task; forks the tasks
        link  relay  keeper           a pipe to a host; the client's end of all pipes; ends everything
        process_tree  agent           the seam: start, signal, on_exit, tail, close; the same on a host
        engines                       engines that are waited for
    training/                         train: what it does, in the client and in each worker
        spec  runs  heartbeat         every default; runs that end in time; how a ps learns that the training is over
        graph  replica                walking through graphs; a worker's copy of the graph
        designs/                      how that is built: the listing's, and cut in two for the fast one
        logdir  checkpoints           the folder of checkpoints; checkpoints
        round_runner  session         the chief's part in rounds; sessions that are waited for
        shared_model  worker          the variables that a training leaves; run_worker and the loop
        progress  calls  client       a bar; a function run in all workers; train
    flags  resolver  distributed      the classic program, one task of a cluster: its flags; who it is; what it does
    launcher  cli                     `mnistdist run`: the tasks that it starts; its arguments
"""

from mnistdist._lazy import lazy, moved

__version__ = "0.2.0"

_NAMES = {
    "errors": ["ClusterStartError", "TaskFailed"],
    "steps": ["StepRecord"],
    "results": ["Run", "restore"],
    "idx": ["DataError"],
    "datasets": ["DataSet", "Datasets", "read_data_sets"],
    "model": ["Graph"],
    "source": ["show"],
    "cluster.task": ["Task"],
    "cluster.cluster": ["Cluster"],
    "training.client": ["train"],
}
__getattr__, __dir__, __all__ = lazy(__name__, {name: home for home, names in _NAMES.items() for name in names})

# Where modules were before version 0.2, and where what chapters imported from them is now.
moved("between_graph", "training.designs.listing", "training.worker", "training.replica")
moved("checkpoints", "training.checkpoints")
moved("cut_graph", "training.designs.fast", "training.designs.step", "training.designs.unrolling")
moved("cutting", "training.designs.cutting", "training.graph")
moved("devices", "cluster.pinning")
moved("network", "cluster.network")
moved("packing", "training.designs.packing")
moved("presence", "training.heartbeat")
moved("replica", "training.replica")
moved("sessions", "training.session", "cluster.task")
