"""Every time limit of the program, in one place: its unit is in its name, its reason beside it.

No wait is without one of these, but for the training itself. A site tunes some of them by
`fault.deadlines:` in the job file (`SETTABLE`); the others are intervals and limits of this
machine's own processes. Whoever waits is handed a `Deadlines`, and an error of a wait names the
field that ended it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

_WORKER_HEARTBEAT_S = 5e-5
"""For each worker between two heartbeats of its agent: some fifteen times what the controller takes
for what they say of it (benchmarks/control_plane.py)."""


@dataclass(frozen=True)
class Deadlines:
    """Seconds, all of them. The defaults suit a cluster of some hundred nodes and a shared file
    system."""

    # Starting: nodes, agents, what they import.
    clocks_differ_s: float = 5.0  # clocks that are set over the network agree much better
    backend_open_s: float = 120.0  # Ray reached or started, its nodes listed, agents placed
    room_s: float = 60.0  # others give back what they hold; `--wait` sets another limit
    nodes_join_s: float = 6.0  # nodes that have just been started join the cluster
    placement_s: float = 3.0  # Ray gives what it has just told to be free
    backend_call_s: float = 60.0  # Ray itself tries for a minute where its head is gone
    agents_join_s: float = 120.0  # an agent's first message
    path_s: float = (
        2.0  # a connection and 64 KiB from one machine to another, before the first step
    )
    paths_s: float = 10.0  # everybody has tried all paths, many of which may be closed
    agents_ready_s: float = 300.0  # torch and transformers imported on a cold shared file system
    inspection_s: float = 3600.0  # text is tokenised once, which may take long
    fingerprint_s: float = 600.0  # every device's probes, where no cache has them
    conform_timing_s: float = 0.05  # an operator beside its plain form, a few times at least
    attention_probe_s: float = 2.0  # attention's twenty repetitions, on a processor
    compile_s: float = 500.0  # DeepSpeed's CPU Adam, a minute on an idle machine; within the probes
    rendezvous_s: float = 120.0  # all workers of a generation reach the controller's store

    # Running: what may stand still, and for how long.
    link_s: float = 10.0  # the first bytes between two islands, some MiB of them, before a step
    message_s: float = 600.0  # a peer's tensors; the controller ends a generation much sooner
    # A wait for a thread lasts so long beyond the limit: the thread waits with the same limit, may
    # have begun a moment later, and knows which of the peers is missing.
    last_word_s: float = 1.0
    # A worker that waits for nobody and stands still is given up after so long, or three times what
    # is usual for it in that phase of a step: pauses of a second or two are ordinary (a hypervisor,
    # a throttled control group), and to give up a healthy worker costs more than the wait.
    hang_s: float = 3.0
    warm_up_s: float = 300.0  # the same in the first steps, in which kernels may be compiled
    build_s: float = 3600.0  # the same before the first step: weights are read
    evaluation_s: float = 1800.0  # the same in an evaluation, whose rounds may differ in length
    suspect_s: float = 0.7  # nobody is given up so soon, but a person is told
    stall_warning_s: float = 120.0  # progress that does not move is shown
    last_worker_s: float = 600.0  # a worker still at work when another has finished
    agent_silence_s: float = 10.0  # an agent without heartbeat is lost: node down or cut off
    controller_silence_s: float = 20.0  # an agent that hears nothing ends its workers
    consequence_s: float = 1.0  # a failure that follows from another waits for that other one
    await_leave_s: float = 30.0  # who has lost a peer hears what becomes of the generation
    rejoin_s: float = 7200.0  # the next generation: a lost node returns first, checkpoints are read
    node_return_s: float = 600.0  # a lost node, or another that fits: a reboot takes minutes
    node_retry_s: float = (
        10.0  # a node whose agent could not start is tried again, then after twice
    )
    leave_s: float = 5.0  # a worker of a broken generation has left it; it may be computing
    thread_end_s: float = 0.5  # a thread that waits for a peer, after its connection has ended
    # As long as agents bear a silent controller: whoever takes the run over meets no worker of it.
    lease_s: float = 20.0  # a controller that does not renew its lease may be followed by another
    deaths_s: float = 3600.0  # so many controllers may die in such a time, and no more
    kill_s: float = 10.0  # SIGKILL takes a process that is not stuck in the kernel

    drill_s: float = 120.0  # a run trains again after a fault that it was to rehearse
    drill_run_s: float = 400.0  # a run of the small job on which faults are rehearsed
    drill_cut_s: float = 2.0  # one that is cut off on purpose: none ends so soon

    # Storage.
    shared_file_s: float = 2.0  # what one machine has written is seen by another
    storage_wait_s: float = 600.0  # storage that fails workers works again; as for a lost node
    find_checkpoint_s: float = 3600.0  # every byte of the newest checkpoint is read
    stage_checkpoint_s: float = 60.0  # the save before this one has left its memory, else no save
    commit_checkpoint_s: float = 1800.0  # the last checkpoint is whole on storage
    records_end_s: float = 30.0  # a run that has ended has written down what it was
    logs_end_s: float = 2.0  # the same of workers' lines, before their agent must end
    storage_told_s: float = 1.0  # storage that answers sooner is never called slow

    # Connections between controller, agents and clients.
    agent_connect_s: float = 2.0  # an agent's machine reaches the controller's
    handshake_s: float = 10.0  # a stranger proves that it knows the token
    send_s: float = 20.0  # a peer that does not read what it is sent
    client_request_s: float = 10.0  # a client's question after the handshake
    client_answer_s: float = 5.0  # the controller's answer to a client
    node_probe_s: float = 1.0  # a node of the cluster takes a connection
    address_probe_s: float = 3.0  # a head of Ray answers where --address points
    node_known_s: float = 5.0  # a node of Ray that has just been started is known to its head

    # Commands that wait for a run; `--timeout` sets another limit.
    stop_step_s: float = 60.0  # a stopped run's workers stand still: their step does not end
    stop_wait_s: float = 600.0  # a stopped run ends its step and writes its checkpoint
    local_run_s: float = 600.0  # a few steps on this machine, of `prove` or `diff --trace`

    # Checks of a device, in processes of their own.
    conform_start_s: float = 300.0  # a device's library is loaded and the device opened
    conform_check_s: float = 300.0  # one check, kernels that are compiled for it included

    # Nodes that are examined before a job.
    doctor_start_s: float = 60.0  # Ray has begun a process on a node
    doctor_look_s: float = 90.0  # a node has looked at itself, its devices' drivers included
    doctor_clock_s: float = 5.0  # it says what time it is
    doctor_paths_s: float = 30.0  # it has tried its paths to all others
    doctor_speed_s: float = 300.0  # its devices are measured, torch imported on a cold file system
    doctor_store_s: float = 60.0  # some MiB are on storage, and read again
    doctor_s: float = 3600.0  # all of it, on some hundred nodes
    doctor_window_s: float = 0.25  # of a measurement: some periods of a control group's quota
    doctor_message_s: float = 0.05  # a message that takes less tells nothing of a link

    # Hosts of a lab, on one machine.
    lab_host_s: float = 30.0  # a host's namespaces are made, a tool for them has ended
    lab_ray_s: float = 90.0  # `ray start` and `ray stop` on a machine with few cores
    lab_command_s: float = 60.0  # a command in a host, where no other limit is given
    packages_s: float = 300.0  # apt-get fetches and installs a few small packages

    # Processes of one machine.
    same_signal_s: float = 2.0  # what a batch system sends to a command and its controller is one
    agent_end_s: float = 5.0  # an agent ends by itself after its controller
    agent_waits_s: float = (
        8.0  # longer than `leave_s`: or has ended its workers, and can serve the next controller
    )
    next_controller_s: float = 60.0  # which comes to it by then
    resume_s: float = 600.0  # or, where the command is gone too, an agent of a cluster is resumed
    # Longer than any controller waits for one, as far as a job file does not say more.
    agent_stopped_s: float = 60.0  # an agent that stands stopped is ended by its fork server
    backend_end_s: float = 20.0  # its agents end, then Ray lets go of everything
    second_fork_server_s: float = 10.0  # training has lasted so long before a second one is started
    fork_server_end_s: float = 2.0  # it kills its workers, then leaves
    exit_look_s: float = 0.02  # and has it as a rule at once: no diagnosis waits for longer
    exit_status_s: float = 1.0  # a process that has closed its line has a status
    status_fresh_s: float = 2.5  # status.json of a living controller changes within

    # What workers print and a start goes through, as the screen shows it.
    log_collect_s: float = 0.5  # a message waits for its equals from other workers
    log_quiet_s: float = 60.0  # a message that comes again within is only counted
    phase_quiet_s: float = 0.1  # a phase of a start that is shorter is for the report alone
    phase_told_s: float = 5.0  # a phase of the start that lasts longer says so before its end
    wait_told_s: float = 10.0  # what is awaited is said again, then after twice as long
    log_settle_s: float = 0.2  # a message of several lines has no more of them

    # Signs of life: how many looks or messages in a row are missing before it is worth a word.
    worker_seen_s: float = 0.5  # a worker that nothing has been told of for longer is not judged
    state_seen_s: float = 0.15  # seen at two looks: a debugger stops a process for an instant
    agent_mute_s: float = 0.45  # four heartbeats have not come: its machine is tried from then on
    machine_tried_s: float = 0.9  # who has not answered a try of its machine by then does not
    neighbour_lost_s: float = 0.7  # three of a machine's short messages and a bit have not come
    # What devices tell of themselves. A driver may hang, and whoever asks it hangs with it.
    compiler_answers_s: float = 10.0  # a compiler has said its version
    telemetry_tool_s: float = 6.0  # a vendor's tool has answered, on a machine that is busy
    telemetry_start_s: float = 60.0  # the first reading, on a machine that is busy with its start
    telemetry_silence_s: float = 10.0  # nothing has come from who reads the devices: it hangs
    device_blame_s: float = 60.0  # a worker fails so soon after its device: the device did it
    device_word_s: float = 1.5  # a driver says why a worker has just failed, if it knows
    port_s: float = 2.0  # ports that are all taken are looked at again; some are, for a moment
    held_up_s: float = 1.0  # a controller that has not looked for so long was held up itself
    budget_s: float = 3600.0  # failures before are forgotten: `fault.max_restarts` is by the hour

    # Intervals.
    neighbour_every_s: float = 0.2  # machines of a run send each other a short message
    ping_every_s: float = 2.0
    port_every_s: float = 0.05  # the same
    reset_retry_s: float = 0.05  # who had to go for a stranger comes again
    look_every_s: float = 0.1  # an agent looks at its workers' processes
    heartbeat_every_s: float = 0.1  # and says what it sees; see `of_workers`
    longest_heartbeat_s: float = 1.0  # several come within the shortest `agent_silence_s`
    tick_every_s: float = 0.1
    # Between two looks at everybody, of a run so large that each costs much; less than
    # `held_up_s`, so that the controller does not take itself for held up.
    longest_look_s: float = 0.8
    longest_batch_s: float = 0.05  # messages that come together are decided about together
    quiet_s: float = 10.0  # a pause between steps that is shorter is never called unusual
    status_every_s: float = 0.5
    longest_status_s: float = 2.0  # of a run so large that it costs much; below `status_fresh_s`
    ended_every_s: float = 1.0  # agents that were started are asked after, until they are ready
    telemetry_every_s: float = 1.0  # devices are read
    telemetry_retry_s: float = 60.0  # who reads them is begun anew after it has ended
    storage_retry_s: float = 1.0  # what storage has refused is tried again
    poll_every_s: float = 0.2  # where a file is all there is to look at
    placement_every_s: float = 0.05  # whether Ray has given what it told to be free
    lease_renew_s: float = 1.0  # a controller says that it lives
    agent_look_every_s: float = 1.0  # a fork server looks whether its agent stands stopped
    adoption_every_s: float = 0.0005  # a process between fork server and worker ends
    exit_poll_every_s: float = 0.02  # a system without pidfd
    acknowledged_every_s: float = 0.002  # whether the other end's system has got a packet
    shared_file_every_s: float = 0.05  # a file that another machine has just written
    node_poll_s: float = 1.0  # which nodes there are, while one is awaited
    reserve_every_s: float = 5.0  # the same beside the training, while agents should stand by
    refresh_every_s: float = 0.25  # the panel is drawn anew: quick to the eye, cheap over a network

    def of_workers(self, num_workers: int) -> Deadlines:
        """In a run of so many: heartbeats are as far apart as lets the controller read them all in
        a part of its time, whatever their number."""
        every_s = max(self.heartbeat_every_s, num_workers * _WORKER_HEARTBEAT_S)
        return replace(self, heartbeat_every_s=min(every_s, self.longest_heartbeat_s))

    def heartbeat_lag_s(self, num_workers: int) -> float:
        """So much later than in a small run heartbeats come: that is no silence."""
        return self.of_workers(num_workers).heartbeat_every_s - self.heartbeat_every_s

    @property
    def looks_of_a_heartbeat(self) -> int:
        """An agent tells of every so many looks the last."""
        return max(1, round(self.heartbeat_every_s / self.look_every_s))

    @property
    def last_saves_s(self) -> float:
        """A worker whose last checkpoint is whole waits for those that save again and again, and
        then for the newest of their saves."""
        return 2 * self.commit_checkpoint_s

    def words(self, name: str) -> str:
        """A limit for the error of a wait, such as `120 s (fault.deadlines.rendezvous_s)`; the key
        is named where a job file can set it."""
        seconds = f"{getattr(self, name):g} s"
        return f"{seconds} (fault.deadlines.{name})" if name in SETTABLE else seconds


DEADLINES = Deadlines()
"""The defaults."""

LEAST_SILENCE_S = 2 * DEADLINES.ping_every_s
"""A living agent answers a ping, so that no shorter `agent_silence_s` can be set."""

SETTABLE = {
    "agents_join_s": "longest wait for an agent's first message after its start",
    "path_s": "longest try of a path between two machines, 64 KiB included, before the first step",
    "paths_s": "longest wait for all machines to have tried their paths",
    "agents_ready_s": "longest wait for an agent to import what its workers need",
    "inspection_s": "longest look at the model and the data, tokenising included",
    "fingerprint_s": "longest wait for the probes of every device",
    "rendezvous_s": "longest wait for all workers of a generation to meet",
    "link_s": "longest look at a link between islands, some MiB included, before a step",
    "message_s": "longest wait of a worker for a peer's tensors",
    "hang_s": (
        "a worker that waits for nobody and stands still so long is ended, at the soonest, and so "
        "is an agent that is not heard while nobody is seen to train"
    ),
    "warm_up_s": "the same in a generation's first steps",
    "build_s": "the same before its first step, while weights are read",
    "evaluation_s": "the same during an evaluation",
    "stall_warning_s": "progress that has not moved for so long is shown as a warning",
    "last_worker_s": "how long a worker may go on when another one has finished",
    "agent_silence_s": (
        f"an agent that is not heard for so long is lost, {LEAST_SILENCE_S:g} at least: workers "
        "train on without it meanwhile; hang_s where nobody is seen to train, as without other "
        "agents"
    ),
    "node_return_s": "how long a recovery waits for a lost node, or another that fits",
    "storage_wait_s": "how long a recovery tries again where storage fails every worker",
    "resume_s": (
        "how long agents of a cluster, whose controller and command are gone, wait for `dougong "
        "resume` with their workers and devices"
    ),
    "shared_file_s": "longest wait for a file in the run directory to be seen on another machine",
    "leave_s": "longest wait for a worker to leave a broken generation, before it is killed",
    "stop_step_s": "a run that is to stop is ended when its workers have stood still for so long",
    "find_checkpoint_s": "longest search for a valid checkpoint, whose every byte is read",
    "stage_checkpoint_s": "longest wait of a save for the one before it, then it is left out",
    "commit_checkpoint_s": "longest wait for the last checkpoint to be whole on storage",
    "records_end_s": "longest wait of a run that has ended for its records to be written",
}
"""What a job file may set under `fault.deadlines`, and what each means to a user."""

MOST_S = 7 * 24 * 3600.0
"""No longer limit can be set: a week."""
