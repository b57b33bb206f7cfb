"""Learning rates over the course of a training: what Keras's own schedules lack."""
