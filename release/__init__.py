"""What a release needs besides the code: an audit of its dependencies, an inventory, signed notes."""
