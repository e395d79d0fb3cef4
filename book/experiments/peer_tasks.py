"""What the processes of each peer run: the text's network and optimizer in the peer's own idiom.

Every peer draws batches of 100 from the same training set, starts from weights drawn as the text draws them, and
trains with Adam at 0.01 on the clipped cross entropy summed over the batch. Synchronous peers apply the mean of the
workers' gradients, as the text's synchronous mode does.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

from book.experiments.peer_processes import report
from mnistdist.cluster.network import parse_address, wait_for_address
from mnistdist.datasets import read_data_sets

BATCH, RATE = 100, 0.01


class Record:
    """What one process notes of a training, on a clock that stands still while it notes.

    Attributes: ``made``, the updates or rounds made at each mark, ``ends``, the seconds then, and ``notes``, a list of
    ``(updates or rounds, seconds, parameters)``, the parameters as NumPy arrays by name.
    """

    def __init__(self, steps, every):
        self.steps, self.every = steps, every
        self.made, self.ends, self.notes, self._spent = [], [], [], 0.0

    def mark(self, made, parameters):
        """``made`` updates or rounds are done; ``parameters()`` is called every ``every`` of them, and at the end."""
        begin, before = time.monotonic(), self.made[-1] if self.made else 0
        self.made.append(made)
        self.ends.append(begin - self._spent)
        if made // self.every != before // self.every or made >= self.steps:
            self.notes.append((made, self.ends[-1], parameters()))
            self._spent += time.monotonic() - begin


# ---------------------------------------------------------------------------------------------------- TensorFlow 2


class Network:
    """The text's network with Adam's state, as variables of the strategy in whose scope it is made."""

    def __init__(self, seed):
        import tensorflow as tf

        def weights(rows, columns, number):
            return tf.random.stateless_truncated_normal([rows, columns], [seed, number], stddev=rows**-0.5)

        values = {
            "hid_w": weights(784, 100, 0),
            "hid_b": tf.zeros([100]),
            "sm_w": weights(100, 10, 1),
            "sm_b": tf.zeros([10]),
        }
        self.parameters = {name: tf.Variable(value, name=name) for name, value in values.items()}
        self.moments = {
            name: [tf.Variable(tf.zeros_like(value), trainable=False) for _ in range(2)]
            for name, value in values.items()
        }
        self.powers = [tf.Variable(beta, trainable=False) for beta in (0.9, 0.999)]

    def gradients(self, images, labels):
        """Gradients of the summed cross entropy, in the order of ``parameters``."""
        import tensorflow as tf

        with tf.GradientTape() as tape:
            hid_w, hid_b, sm_w, sm_b = (tf.convert_to_tensor(v) for v in self.parameters.values())
            tape.watch([hid_w, hid_b, sm_w, sm_b])
            hid = tf.nn.relu(tf.nn.bias_add(images @ hid_w, hid_b))
            y = tf.nn.softmax(tf.nn.bias_add(hid @ sm_w, sm_b))
            loss = -tf.reduce_sum(labels * tf.math.log(tf.clip_by_value(y, 1e-10, 1.0)))
        return tape.gradient(loss, [hid_w, hid_b, sm_w, sm_b])

    def apply(self, gradients):
        """One step of Adam, by the kernel of the listing's optimizer: Keras' would not run on a ps."""
        import tensorflow as tf

        read = tf.raw_ops.ReadVariableOp
        powers = [read(resource=power.handle, dtype=tf.float32) for power in self.powers]
        done = []
        for (name, parameter), gradient in zip(self.parameters.items(), gradients, strict=True):
            first, second = self.moments[name]
            done.append(
                tf.raw_ops.ResourceApplyAdam(
                    var=parameter.handle,
                    m=first.handle,
                    v=second.handle,
                    beta1_power=powers[0],
                    beta2_power=powers[1],
                    lr=RATE,
                    beta1=0.9,
                    beta2=0.999,
                    epsilon=1e-8,
                    grad=gradient,
                )
            )
        with tf.control_dependencies(done):
            for power, value, beta in zip(self.powers, powers, (0.9, 0.999), strict=True):
                tf.raw_ops.AssignVariableOp(resource=power.handle, value=value * beta)

    def numpy(self):
        """The parameters as NumPy arrays by name."""
        return {name: variable.numpy() for name, variable in self.parameters.items()}


def batches(images, labels, seed=None):
    """A ``tf.data`` pipeline with the guarantees of ``next_batch``: reshuffled each epoch, nothing dropped."""
    import tensorflow as tf

    options = tf.data.Options()
    options.threading.private_threadpool_size = 1  # a worker has one core
    options.autotune.enabled = False
    rows = tf.data.Dataset.range(len(images)).shuffle(len(images), seed=seed).repeat().batch(BATCH, drop_remainder=True)

    def draw(rows):
        return tf.cast(tf.gather(images, rows), tf.float32) * (1 / 255), tf.gather(labels, rows)

    return rows.map(draw).prefetch(2).with_options(options)


def parameter_server(settings, job, index):
    """ParameterServerStrategy: a coordinator schedules updates on whichever worker is free."""
    import tensorflow as tf

    spec = tf.train.ClusterSpec(settings["spec"])
    if job != "coordinator":
        from mnistdist.cluster.task import server_config

        tf.distribute.Server(spec, job_name=job, task_index=index, config=server_config()).join()
    for name, addresses in settings["spec"].items():
        for address in addresses:
            wait_for_address(address, 60, what=name)
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(spec, rpc_layer="grpc")
    strategy = tf.distribute.ParameterServerStrategy(resolver)
    coordinator = tf.distribute.coordinator.ClusterCoordinator(strategy)
    with strategy.scope():
        network = Network(settings["seed"])
    images, labels = read_data_sets(one_hot=True).train.stored
    iterator = iter(coordinator.create_per_worker_dataset(lambda: batches(images, labels)))

    def update(batch):
        network.apply(network.gradients(*batch))

    at_once = settings["steps_per_call"]

    @tf.function
    def steps(iterator):
        for _ in range(at_once):
            strategy.run(update, args=(next(iterator),))

    record, made = Record(settings["steps"], settings["every"]), 0
    # The first call of each worker builds its functions. After that the queue is empty once in 250 updates: the way of
    # TensorFlow's guide, which joins once an epoch.
    while made < record.steps:
        left = min(record.every - made % record.every, record.steps - made)
        calls = 2 if made == 0 else -(-left // at_once)
        for _ in range(calls):
            coordinator.schedule(steps, args=(iterator,))
        coordinator.join()
        made += calls * at_once
        record.mark(made, network.numpy)
    return record


def multi_worker_mirrored(settings, job, index):
    """MultiWorkerMirroredStrategy: every worker has the variables, and a ring sums the gradients of a round."""
    import tensorflow as tf

    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec(settings["spec"]), task_type=job, task_id=index, rpc_layer="grpc"
    )
    ring = tf.distribute.experimental.CommunicationImplementation.RING
    strategy = tf.distribute.MultiWorkerMirroredStrategy(
        cluster_resolver=resolver,
        communication_options=tf.distribute.experimental.CommunicationOptions(implementation=ring),
    )
    with strategy.scope():
        network = Network(settings["seed"])
    iterator = iter(batches(*read_data_sets(one_hot=True).train.stored, seed=10 * settings["seed"] + index))

    def update(images, labels):
        gradients = network.gradients(images, labels)
        context = tf.distribute.get_replica_context()
        network.apply(context.all_reduce(tf.distribute.ReduceOp.MEAN, gradients))

    at_once = settings["steps_per_call"]

    @tf.function
    def steps(iterator):
        for _ in range(at_once):
            strategy.run(update, args=next(iterator))

    record, made = Record(settings["steps"], settings["every"]), 0
    while made < record.steps:
        steps(iterator)
        made += at_once
        record.mark(made, network.numpy)
    return record


# ---------------------------------------------------------------------------------------------------------- PyTorch


def distributed_data_parallel(settings, job, index):
    """PyTorch's DistributedDataParallel on gloo: gradients are averaged while they are still being computed."""
    import torch
    from torch import distributed, nn

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    torch.manual_seed(settings["seed"])
    host, port = parse_address(settings["spec"]["worker"][0])
    distributed.init_process_group("gloo", f"tcp://{host}:{port}", rank=index, world_size=2)
    network = nn.Sequential(nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, 10), nn.Softmax(dim=1))
    for layer in (network[0], network[2]):
        deviation = layer.in_features**-0.5
        nn.init.trunc_normal_(layer.weight, std=deviation, a=-2 * deviation, b=2 * deviation)
        nn.init.zeros_(layer.bias)
    parallel = nn.parallel.DistributedDataParallel(network)
    optimizer = torch.optim.Adam(parallel.parameters(), lr=RATE, fused=True)
    data = read_data_sets(one_hot=True, seed=[settings["seed"], index]).train

    def numpy():
        hid_w, hid_b, sm_w, sm_b = (p.detach().numpy().T.copy() for p in network.parameters())
        return {"hid_w": hid_w, "hid_b": hid_b, "sm_w": sm_w, "sm_b": sm_b}

    record = Record(settings["steps"], settings["every"])
    for made in range(1, record.steps + 1):
        images, labels = map(torch.from_numpy, data.next_batch(BATCH))
        loss = -(labels * parallel(images).clamp(1e-10, 1.0).log()).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        record.mark(made, numpy)
    return record


PEERS = {
    "parameter_server": parameter_server,
    "multi_worker_mirrored": multi_worker_mirrored,
    "distributed_data_parallel": distributed_data_parallel,
}


def main():
    """Entry of a task: its arguments are the folder shared with the keeper, its job and its index."""
    folder, job, index = sys.argv[1], sys.argv[2], int(sys.argv[3])
    settings = json.loads((Path(folder) / "settings.json").read_text())
    record = PEERS[settings["peer"]](settings, job, index)
    report(folder, job, index, {"made": record.made, "ends": record.ends, "notes": record.notes})
    signal.pause()  # until all have reported, and the keeper ends them


if __name__ == "__main__":
    main()
