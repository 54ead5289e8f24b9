"""Live: a camera or stream, enhanced now, in a window, in the browser, as a virtual camera or into a file.

    source ─ capture thread ─ newest ─ enhance thread ─ newest ─ viewers (window, browsers)
                                                     └─ sinks (recorder, virtual camera)

Latency first: between two threads lies no queue but the newest frame, and who comes late never sees the others.
"""
