"""How Alembic runs here: on the connection it is given, everything in the caller's one transaction."""

from alembic import context

from duramen_collector.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=True,
    render_as_batch=True,
)
context.run_migrations()
