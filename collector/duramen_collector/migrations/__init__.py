"""The database's migrations, in the order of their revisions; none is changed once released."""
