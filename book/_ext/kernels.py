"""What the book's kernels are told, whoever starts them: `make book`, `make record` or nbval."""

from mnistdist.errors import PLAIN

ENVIRONMENT = PLAIN | {
    "IPP_NONINTERACTIVE": "1",  # ipyparallel draws no progress bars: they would fill the stored outputs
    "MNISTDIST_PROGRESS": "0",  # nor does mnistdist
}
TIMEOUT = 600  # seconds a cell may take


def encrypt_connections():
    """Encrypt the connections of kernels started from this process; unencrypted ones print a warning each."""
    from jupyter_client import KernelManager

    KernelManager.transport_encryption.default_value = "auto"
