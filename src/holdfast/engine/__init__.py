"""The second floor: agents, threads and the loop. It knows no service and no store by name."""
