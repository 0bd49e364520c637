"""What to build: TOML recipes.

    recipe = read_recipe(find_recipe("nginx"), ["image=nginx:1.25"])
    recipe.get("boot", "memory")

| module | what it gives |
|---|---|
| ``recipe`` | ``Recipe``; ``find_recipe``, ``read_recipe``, ``shipped_recipes`` |
| ``fields`` | ``TABLES``: what recipes may say; ``json_schema`` |

What is built by them is the builder's.
"""
