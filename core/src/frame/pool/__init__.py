"""The shell around the policies: worker groups as processes, their sockets, and the workload manager."""
