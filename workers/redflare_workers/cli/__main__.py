"""``python -m redflare_workers.cli`` is the ``redflare`` command."""

from . import main

if __name__ == "__main__":
    main()
