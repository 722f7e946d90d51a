"""Checkpoint directories.

directory.load_component, read_config, create_checkpoint    contents of a directory; reading and writing it
trees.save_tree, restore_tree, iterate_tree                 one component's tree of arrays, in Orbax's format
"""
