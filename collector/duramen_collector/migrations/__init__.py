"""The database's migrations, in the order of their revisions; each is explicit and changes nothing afterwards."""
