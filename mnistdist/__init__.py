"""Distributed TensorFlow training on real local processes, driven from notebooks.

``import mnistdist`` imports neither TensorFlow nor ipyparallel; each name is loaded when it is first used. The rooms,
of which each imports only from those above it:

    errors  _check  _wait  _files     errors; what arguments may be; waiting with a limit; whole-or-nothing writes
    steps  results                    what a worker notes of each step; what a training brings home
    idx  datasets  data/              the four files of MNIST; batches; the files themselves
    model  placement                  the classic program's network; which device an op is asked to run on, and does
    plots  diagrams  style  source    figures; drawings; their colours; show()
    cluster/                          Cluster: its processes and engines, their network, GPUs and cores
        network  pinning  linux       addresses and private networks; who gets what; starting and ending processes
        process_tree                  the seam: start, signal, on_exit, tail, close
        keeper  forkserver  task      ends everything; forks the tasks; becomes one
        engines  recovery             engines that are waited for; who is stopped, who begins again
    training/                         train: what it does, in the client and in each worker
        spec  calls  client           every default; a function run in all workers; train
        worker  replica  graph        run_worker and the loop; a worker's copy of the graph; walking through graphs
        designs/                      how the graph is built: the listing's, and cut in two for the fast one
        session  shared_model         sessions that are waited for; the variables that a training leaves
        checkpoints  logdir           checkpoints; their folder
        round_runner  heartbeat       the chief's part in rounds; how a ps learns that the training is over
        runs                          runs that end in time; what the error of one means
    flags  distributed                the classic program, one task of a cluster: its flags; what it does
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
moved("sessions", "training.session")
