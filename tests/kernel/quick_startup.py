"""Start-up file of a kernel under test: gives the parameters cell the values of the quick profile.

The runner names a folder in MCVP_QUICK. Its `quick.json` holds `cells`, the sources of the cells tagged `parameters`,
and `values`, name -> Python literal. When such a cell runs, its assignments to these names get these values, and
`applied.txt` gets one line per name. Nothing else is rewritten, and no name is left in the notebook's namespace.
"""


def _install():
    import ast
    import json
    import os
    from pathlib import Path

    folder = Path(os.environ["MCVP_QUICK"])
    quick = json.loads((folder / "quick.json").read_text(encoding="utf-8"))
    cells = {ast.dump(ast.parse(source)) for source in quick["cells"]}

    class QuickValues(ast.NodeTransformer):
        def visit_Module(self, module):
            if ast.dump(module) in cells:
                for statement in module.body:
                    if isinstance(statement, (ast.Assign, ast.AnnAssign)):
                        self.replace(statement)
            return ast.fix_missing_locations(module)

        def replace(self, statement):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            name = getattr(targets[0], "id", None)
            if len(targets) == 1 and name in quick["values"]:
                literal = ast.parse(quick["values"][name], mode="eval").body
                statement.value = ast.copy_location(literal, statement.value)
                with open(folder / "applied.txt", "a", encoding="utf-8") as file:
                    file.write(f"{name}\n")

    get_ipython().ast_transformers.append(QuickValues())  # noqa: F821  (a kernel's own name)


_install()
del _install
