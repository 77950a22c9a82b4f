"""What will be done, as data: a pure function from (recipe, inventory) to a frozen, hashed plan.

The room is called `planning` because `lego_ray.plan` is the call that makes one.
"""
