"""One module a family of libraries: a registry from names to what is planted, and `build(root)` that plants it all.

`root` stands for the scratch folder of the world, and the paths below it are those of tests.offline.environment.
"""
