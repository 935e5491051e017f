# What the `flask` command works on when it is called from this folder.
FLASK_APP=workers.commands:flask_app
