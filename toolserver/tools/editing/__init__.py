"""What edits mean: pure rules, from a request and the files as they are to the files as they shall be.

    steps      the request's edits, checked           v4a, unified    patches as hunks
    matching   where old text is, rung by rung        hunks           where a patch's hunks belong
    documents  bytes as text and back, unchanged      changes         all of it applied to files in memory

Nothing here opens a file; ``tools.edit`` reads before and ``system.edit_journal`` writes after.
"""
