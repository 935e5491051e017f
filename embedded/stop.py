"""`./stop_services.sh`, and the end of every `./start_services.sh`. It imports next to nothing: nobody waits for it."""

from rich.console import Console

from embedded.supervision import Supervisor


def stop(supervisor: Supervisor, console: Console) -> None:
    """Stop everything that runs from this folder, or say that nothing does."""
    with console.status("Stopping: each worker finishes the mail in hand ..."):
        stopped = supervisor.stop()
    console.print("Everything has stopped. The data in var stays." if stopped else "Nothing is running here.")
