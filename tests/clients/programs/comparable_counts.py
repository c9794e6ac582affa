"""A hook for schemathesis: what one field forbids another, no schema can say."""

# mypy: ignore-errors
import schemathesis


@schemathesis.hook
def before_call(context, case, kwargs):
    """`best_of` is not less than `n`, and streams have none."""
    if isinstance(case.body, dict) and type(case.body.get("best_of")) in {int, float}:
        del case.body["best_of"]
