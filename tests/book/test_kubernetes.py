"""The page's objects for Kubernetes: they fit together, and their commands are those of tasks that find each other."""

import re
import shlex
from pathlib import Path

import yaml

from mnistdist.flags import check, parse

OBJECTS = list(yaml.safe_load_all((Path(__file__).parents[2] / "book/programs/kubernetes.yaml").read_text()))


def only(kind):
    (found,) = [each for each in OBJECTS if each["kind"] == kind]
    return found


def jobs():
    return [each for each in OBJECTS if each["kind"] == "Job"]


def test_every_pod_has_the_name_that_the_lists_of_addresses_give_it():
    service = only("Service")
    assert service["spec"]["clusterIP"] == "None"  # a text: YAML's null would give the service an address
    assert service["spec"]["publishNotReadyAddresses"] is True
    named = set()
    for job in jobs():
        spec = job["spec"]
        pod = spec["template"]
        assert spec["completionMode"] == "Indexed"
        assert spec["completions"] == spec["parallelism"]  # all at the same time
        assert pod["metadata"]["labels"].items() >= service["spec"]["selector"].items()
        assert pod["spec"]["subdomain"] == service["metadata"]["name"]
        assert pod["spec"]["restartPolicy"] == "Never"
        names = [f"{job['metadata']['name']}-{i}.{pod['spec']['subdomain']}:2222" for i in range(spec["completions"])]
        (container,) = pod["spec"]["containers"]
        words = shlex.split(container["args"][0])
        assert words[:4] == ["exec", "python", "-m", "mnistdist.distributed"]
        for index in range(spec["completions"]):
            flags = parse([word.replace("$JOB_COMPLETION_INDEX", str(index)) for word in words[4:]])
            cluster = check(flags)
            assert flags.task_index == index
            assert cluster[flags.job_name] == names
        named |= set(names)
    assert named == {address for addresses in cluster.values() for address in addresses}


def test_the_policy_lets_only_the_tasks_in_and_only_to_the_port():
    policy, service = only("NetworkPolicy")["spec"], only("Service")["spec"]
    assert policy["podSelector"]["matchLabels"] == service["selector"]
    assert policy["policyTypes"] == ["Ingress"]
    (rule,) = policy["ingress"]
    assert rule["from"] == [{"podSelector": {"matchLabels": service["selector"]}}]
    assert [port["port"] for port in rule["ports"]] == [service["ports"][0]["port"]] == [2222]


def test_each_object_is_of_a_known_version_and_has_a_name_of_its_own():
    versions = {"Service": "v1", "NetworkPolicy": "networking.k8s.io/v1", "Job": "batch/v1"}
    assert all(each["apiVersion"] == versions[each["kind"]] for each in OBJECTS)
    names = [(each["kind"], each["metadata"]["name"]) for each in OBJECTS]
    assert len(set(names)) == len(names) == 4
    assert all(re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", name) for _, name in names)
