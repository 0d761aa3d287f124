"""Installed packages, kept as one file per set of them, so that the next workspace need not install.

    filling    a node_modules directory -> a pack          unfolding    a pack -> a directory beside the root
    store      which packs there are, whose, how many      placing      that directory becomes the root's
    spares     trees unfolded before anybody needs them, so that placing one is a rename
    probing    which means of placing there are here

A pack is read, never linked to: nothing that a workspace does to its packages reaches the store. Every byte
of it is checked against its digest on the way out, before anything is in the workspace.

A spare tree has one owner, and belongs to one workspace from the moment it is taken: nothing is shared.

Why it is copied where there is no spare and blocks cannot be shared: an overlay mount of node_modules can be
neither renamed nor removed by who works in the tree, and neither Landlock nor a hardened container lets one
be made. One overlay of root and store together, in which a tree is renamed out of the layer below, has none
of that; but Linux grants it (``redirect_dir=on``) to the host's root alone, not in a user namespace nor in
Docker's own layers, and the host's root has spares. A link into a store leads out of the workspace, so that
nothing behind it can be read by path or edited, and `npm ls` fails. Through a hard link its owner writes into
the store, and the kernel refuses anybody else to make one.
"""
