"""Everything that knows a file format, a model zoo or a data set.

The library (:mod:`sau_cli`) never opens a model file; this package does, and hands over
classifiers, labelled images and facts. See ``adapters/README.md`` for how to add one.
"""
