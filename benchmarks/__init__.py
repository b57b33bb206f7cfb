"""Scripts that compare tfxfer with other stacks; see README.md."""
