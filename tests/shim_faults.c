/* Tests of the shim for what no Python program can bring about at will: memory refused at each
 * allocation in turn, odd answers of the kernel, another thread at each single instruction, a
 * fork in each state, and sizes beyond all memory.
 *
 *     cc -pthread -I pypoll tests/shim_faults.c -o shim_faults && ./shim_faults
 *
 * The shim is included, so that its calls of the C library come here first. */

#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define CHECK(truth)                                                               \
    do {                                                                           \
        if (!(truth)) {                                                            \
            fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, __LINE__, #truth);  \
            abort();                                                               \
        }                                                                          \
    } while (0)

/* ---- What the shim calls ----------------------------------------------- */

static int refuse_at; /* which allocation from now on is refused; 0: none */

static int refused(void)
{
    return refuse_at > 0 && --refuse_at == 0;
}

static void *refusable_malloc(size_t size)
{
    return refused() ? NULL : malloc(size);
}

static void *refusable_calloc(size_t count, size_t size)
{
    return refused() ? NULL : calloc(count, size);
}

static void *refusable_realloc(void *memory, size_t size)
{
    return refused() ? NULL : realloc(memory, size);
}

enum { ASK_KERNEL = -1, ONE_READY = -2 };

/* What the next system calls answer: an errno, 0 for nothing ready, or one without saying which. */
static const int from_kernel[] = {ASK_KERNEL};
static const int interrupted[] = {EINTR, ASK_KERNEL};
static const int *answers = from_kernel;

static int answered(void)
{
    int answer = *answers++;

    if (answer == ONE_READY)
        return 1;
    errno = answer;
    return answer == 0 ? 0 : -1;
}

/* The thread that stops at each instruction, and the other one, which then runs until it
 * is done, or sleeps because the first one has the lock: then that goes on too. */
static sem_t go, pause_over, done;
static pthread_t other;
static volatile int other_runs;

static void announce_sleep(void)
{
    if (other_runs && pthread_equal(pthread_self(), other)) {
        other_runs = 0;
        sem_post(&pause_over);
    }
}

/* While the other one is in the system call, the first one comes to the end of its turn: the array
 * that the kernel has must not be written, or freed. */
static sem_t turn_over;
static volatile int sleeps_in_poll;

static void sleep_in_poll(const struct pollfd *entries, nfds_t count)
{
    struct pollfd *before;
    nfds_t i;

    if (!sleeps_in_poll || !pthread_equal(pthread_self(), other))
        return;
    sleeps_in_poll = 0;
    before = malloc(count * sizeof *before);
    CHECK(before != NULL);
    memcpy(before, entries, count * sizeof *before);
    announce_sleep();
    while (sem_wait(&turn_over) < 0)
        ;
    for (i = 0; i < count; i++)
        CHECK(before[i].fd == entries[i].fd && before[i].events == entries[i].events);
    free(before);
}

static int answered_poll(struct pollfd *entries, nfds_t count, int timeout)
{
    sleep_in_poll(entries, count);
    return *answers == ASK_KERNEL ? poll(entries, count, timeout) : answered();
}

#if !defined(__APPLE__) && !defined(PYPOLL_POLL_ONLY)
static int answered_ppoll(struct pollfd *entries, nfds_t count, const struct timespec *time, const sigset_t *signals)
{
    return *answers == ASK_KERNEL ? ppoll(entries, count, time, signals) : answered();
}
#endif

static int announced_sleep(const struct timespec *time, struct timespec *left)
{
    announce_sleep();
    return nanosleep(time, left);
}

static int announced_lock(pthread_mutex_t *mutex)
{
    if (pthread_mutex_trylock(mutex) == 0)
        return 0;
    announce_sleep();
    return pthread_mutex_lock(mutex);
}

#define malloc refusable_malloc
#define calloc refusable_calloc
#define realloc refusable_realloc
#define poll answered_poll
#define ppoll answered_ppoll
#define nanosleep announced_sleep
#define pthread_mutex_lock announced_lock
#define PYPOLL_VERSION "0"
#include "shim.c"
#undef malloc
#undef calloc
#undef realloc
#undef poll
#undef ppoll
#undef nanosleep
#undef pthread_mutex_lock

/* ---- Sets -------------------------------------------------------------- */

/* Descriptors from here on are not open, and so ready with POLLNVAL. */
enum { CLOSED = 1000000, MOST = 200 };

struct content {
    int count;
    int fds[MOST], masks[MOST];
};

static struct content content_of(pypoll_set *set)
{
    struct content content;
    int i;

    memset(&content, 0, sizeof content);
    content.count = pypoll_list(set, content.fds, MOST);
    CHECK(content.count == pypoll_len(set) && content.count == pypoll_list(set, NULL, content.count - 1));
    for (i = 0; i < content.count; i++) {
        content.masks[i] = pypoll_mask(set, content.fds[i]);
        CHECK(content.masks[i] >= 0);
    }
    return content;
}

static int same(struct content one, struct content another)
{
    return memcmp(&one, &another, sizeof one) == 0;
}

static pypoll_set *filled(int count)
{
    pypoll_set *set = pypoll_new();
    int i;

    CHECK(set != NULL);
    for (i = 0; i < count; i++)
        CHECK(pypoll_register((intptr_t)set, CLOSED + i, POLLIN) == 0);
    return set;
}

/* Does not wait, takes all results, and returns how many there were, or -errno. */
static int64_t ready_in(pypoll_set *set)
{
    int64_t answer = pypoll_check((intptr_t)set);
    int count = 0, filled;

    if (answer >= PYPOLL_MANY)
        return answer > 0 ? 1 : answer;
    count = (int)(PYPOLL_MANY - answer);
    while ((filled = pypoll_gather((intptr_t)set)) > 0)
        count += filled;
    return count;
}

static void hold(pypoll_set *set)
{
    answers = interrupted;
    CHECK(pypoll_wait((intptr_t)set) == -EINTR);
    CHECK(pypoll_hold(set) != 0 && pypoll_check((intptr_t)set) == -EBUSY);
    CHECK(pypoll_wait_masked(set, 0, NULL, 0) == (HAS_PPOLL ? -EBUSY : -ENOSYS));
}

/* ---- Memory refused ---------------------------------------------------- */

static int register_one(pypoll_set *set)
{
    return pypoll_register((intptr_t)set, CLOSED + MOST, POLLOUT);
}

static int modify_one(pypoll_set *set)
{
    return pypoll_modify((intptr_t)set, CLOSED, POLLOUT);
}

static int unregister_one(pypoll_set *set)
{
    return pypoll_unregister((intptr_t)set, CLOSED);
}

static int unregister_all(pypoll_set *set)
{
    struct content content = content_of(set);
    int i, error = 0;

    for (i = 0; i < content.count && error == 0; i++)
        error = pypoll_unregister((intptr_t)set, content.fds[i]);
    return error;
}

/* Refuses one allocation of the change after the other, in a set of so many descriptors of
 * which some, but not the first, were taken out. A change that fails changes nothing, and
 * later succeeds. */
static void refuse_each(int (*change)(pypoll_set *), int count, int holes, int held)
{
    struct content changed;
    int which, was_refused;

    for (which = 0, was_refused = 1; was_refused; which++) {
        pypoll_set *set = filled(count);
        struct content before;
        int i, error;

        for (i = 1; i <= holes; i++)
            CHECK(pypoll_unregister((intptr_t)set, CLOSED + i) == 0);
        before = content_of(set);
        if (held)
            hold(set);
        refuse_at = which;
        error = change(set);
        was_refused = which == 0 || refuse_at == 0;
        refuse_at = 0;
        if (error != 0) {
            CHECK(error == -ENOMEM && which > 0 && was_refused);
            CHECK(same(content_of(set), before));
            CHECK(change(set) == 0);
        }
        if (which == 0)
            changed = content_of(set);
        CHECK(same(content_of(set), changed));
        if (held)
            pypoll_release(set, pypoll_hold(set));
        CHECK(ready_in(set) == changed.count);
        pypoll_free(set);
    }
}

static void test_refused_memory_changes_nothing(void)
{
    int which, count, holes, held;
    pypoll_set *set = NULL;

    for (which = 1; set == NULL; which++) {
        refuse_at = which;
        set = pypoll_new();
        CHECK((set == NULL) == (refuse_at == 0));
        refuse_at = 0;
    }
    CHECK(which > 3 && ready_in(set) == 0);
    pypoll_free(set);
    for (count = 1; count < 40; count++)
        for (holes = 0; holes < count; holes += 1 + count / 3)
            for (held = 0; held <= 1; held++) {
                refuse_each(register_one, count, holes, held);
                refuse_each(modify_one, count, holes, held);
                refuse_each(unregister_one, count, holes, held);
            }
    refuse_each(unregister_all, MOST, 0, 0);
}

/* No memory is as large as what is refused here, so the array only says that it were. */
static void test_what_the_numbers_cannot_count_is_refused(void)
{
    pypoll_set *set = filled(1);
    struct content before = content_of(set);

    set->array->count = set->array->live = set->array->capacity = INT_MAX;
    CHECK(register_one(set) == -ENOMEM);
    set->array->count = set->array->live = 1;
    set->array->capacity = LEAST_CAPACITY;
    CHECK(index_resize(set, 31) == -ENOMEM);
    CHECK(array_resized(NULL, -1) == NULL);
    CHECK(same(content_of(set), before));
    pypoll_free(set);
}

/* ---- Answers of the kernel --------------------------------------------- */

static void test_odd_answers_of_the_kernel(void)
{
    const int again[] = {EAGAIN, ASK_KERNEL}, again_and_again[] = {EAGAIN, EAGAIN, ASK_KERNEL};
    const int no_memory[] = {ENOMEM, ASK_KERNEL}, early[] = {0, 0, ENOMEM, ASK_KERNEL};
    const int too_many[] = {EINVAL, ASK_KERNEL}, still_too_many[] = {EINVAL, EINVAL, ASK_KERNEL};
    const int one_ready[] = {ONE_READY, ASK_KERNEL};
    const unsigned char no_signal[] = {SIGINT, 0};
    pypoll_set *set = filled(2);

    answers = again;
    CHECK(ready_in(set) == 2);
    answers = again_and_again;
    CHECK(pypoll_check((intptr_t)set) == -EINTR);
    CHECK(pypoll_resume(set) == 0); /* its time was over */
    answers = again_and_again;
    CHECK(pypoll_wait((intptr_t)set) == -EINTR);
    CHECK(pypoll_resume(set) == PYPOLL_MANY - 2);
    CHECK(pypoll_gather((intptr_t)set) == 0);
    answers = no_memory;
    CHECK(pypoll_wait((intptr_t)set) == -ENOMEM);

    /* More entries than the limit of descriptors: once without the hole there are not. */
    answers = too_many;
    CHECK(pypoll_wait((intptr_t)set) == -EINVAL);
    CHECK(pypoll_unregister((intptr_t)set, CLOSED) == 0);
    answers = too_many;
    CHECK(ready_in(set) == 1);
    CHECK(register_one(set) == 0 && pypoll_unregister((intptr_t)set, CLOSED + 1) == 0);
    answers = still_too_many;
    CHECK(pypoll_wait((intptr_t)set) == -EINVAL);
    /* The changed copy of the array has its own holes, and the index is of that one. */
    CHECK(pypoll_register((intptr_t)set, CLOSED, POLLIN) == 0 && pypoll_unregister((intptr_t)set, CLOSED + MOST) == 0);
    answers = interrupted;
    CHECK(pypoll_wait((intptr_t)set) == -EINTR);
    CHECK(register_one(set) == 0);
    answers = too_many;
    CHECK(pypoll_resume(set) == ((int64_t)CLOSED << 16 | POLLNVAL));
    CHECK(ready_in(set) == 2 && pypoll_mask(set, CLOSED + MOST) == POLLOUT);
    CHECK(pypoll_unregister((intptr_t)set, CLOSED + MOST) == 0 && unregister_one(set) == 0);

    CHECK(register_one(set) == 0);
    answers = one_ready;
    CHECK(pypoll_check((intptr_t)set) == (int64_t)(CLOSED + MOST) << 16);
    CHECK(pypoll_unregister((intptr_t)set, CLOSED + MOST) == 0);

    /* Nothing was ready, and the time is not over: the wait goes on. */
    answers = early;
    CHECK(pypoll_wait_for((intptr_t)set, 3600 * NANOSECONDS_PER_SECOND) == -ENOMEM);
    CHECK(*answers == ASK_KERNEL);
    CHECK(pypoll_one(CLOSED, 0, 1) == POLLNVAL);
    CHECK(pypoll_one(HOLE, 0, 1) == 0);
    CHECK(pypoll_wait_masked(set, 0, no_signal, sizeof no_signal) == (HAS_PPOLL ? -EINVAL : -ENOSYS));
    pypoll_free(set);
    answers = from_kernel;
}

/* ---- Another thread at each instruction -------------------------------- */

#if defined(__x86_64__) && defined(__linux__)
#include <sys/mman.h>
#include <ucontext.h>

enum { TRAP_FLAG = 0x100, BREAKPOINT = 0xcc, MOST_PLACES = 100000 };

extern unsigned char __executable_start, etext;

/* Where a turn has instructions of this program. The C library's are left out: it may hold
 * a lock of malloc there, which the other thread will want. */
static unsigned char *places[MOST_PLACES];
static volatile int place_count, stepping;
static unsigned char *volatile breakpoint;
static volatile unsigned char instruction;
static void (*others_turn)(pypoll_set *);
static pypoll_set *shared;
static int count_before;

/* Comes after each single step, and at the breakpoint. */
static void trapped(int number, siginfo_t *information, void *context)
{
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    unsigned char *next = (unsigned char *)(uintptr_t)registers[REG_RIP];
    int i = 0;

    (void)number;
    (void)information;
    if (stepping) {
        registers[REG_EFL] |= TRAP_FLAG;
        while (i < place_count && places[i] != next)
            i++;
        if (i == place_count && i < MOST_PLACES && next >= &__executable_start && next < &etext)
            places[place_count++] = next;
    } else if (breakpoint != NULL) {
        *breakpoint = instruction;
        registers[REG_RIP] = (greg_t)(uintptr_t)breakpoint;
        breakpoint = NULL;
        other_runs = 1;
        sem_post(&go);
        while (sem_wait(&pause_over) < 0)
            ;
    } else
        registers[REG_EFL] &= ~(greg_t)TRAP_FLAG;
}

static void *run_other(void *unused)
{
    for (;;) {
        while (sem_wait(&go) < 0)
            ;
        if (others_turn == NULL)
            return unused;
        others_turn(shared);
        if (other_runs) {
            other_runs = 0;
            sem_post(&pause_over);
        }
        sem_post(&done);
    }
}

static void registers_one(pypoll_set *set)
{
    CHECK(register_one(set) == 0);
}

static void unregisters_one(pypoll_set *set)
{
    CHECK(unregister_one(set) == 0);
}

/* The second change must leave alone what the first one left to a wait. */
static void registers_another(pypoll_set *set)
{
    CHECK(pypoll_register((intptr_t)set, CLOSED + MOST + 1, POLLIN) == 0);
    CHECK(pypoll_modify((intptr_t)set, CLOSED + MOST + 1, POLLOUT) == 0);
}

static void polls(pypoll_set *set)
{
    int64_t ready = ready_in(set);

    CHECK(ready == -EBUSY || (ready >= count_before - 1 && ready <= count_before + 1));
}

static void polls_for_long(pypoll_set *set)
{
    sleeps_in_poll = 1;
    polls(set);
    sleeps_in_poll = 0;
}

/* With one of its own, which is there before and after. */
static void makes_and_frees(pypoll_set *set)
{
    pypoll_set *made = filled(1);

    (void)set;
    CHECK(ready_in(made) == 1);
    pypoll_free(made);
}

/* The child has whole sets, in a whole list, and all locks are free. It ends by _exit(): what a
 * thread is in the middle of is not there to be ended. */
static void forks(pypoll_set *set)
{
    int status;
    pid_t child = fork();

    CHECK(child >= 0);
    if (child == 0) {
        int64_t ready;
        pypoll_set *each;

        alarm(20);
        for (each = first_set; each != NULL; each = each->after)
            CHECK(*each->link == each);
        ready = content_of(set).count;
        CHECK(ready >= count_before - 1 && ready <= count_before + 1);
        CHECK(ready_in(set) == ready);
        CHECK(register_one(set) == 0);
        makes_and_frees(set);
        _exit(0);
    }
    CHECK(waitpid(child, &status, 0) == child && status == 0);
}

/* There is a copy from an earlier wait, and one more descriptor makes it move. */
static pypoll_set *full(void)
{
    pypoll_set *set = filled(1);

    hold(set);
    do
        CHECK(pypoll_register((intptr_t)set, CLOSED + pypoll_len(set), POLLIN) == 0);
    while (set->next->count < set->next->capacity);
    count_before = pypoll_len(set);
    pypoll_release(set, pypoll_hold(set));
    return set;
}

/* Stops one thread at each of its instructions in turn, for the other to have its turn. */
static void stop_everywhere(void (*turn)(pypoll_set *), int growth, void (*others)(pypoll_set *), int others_growth)
{
    int i;

    shared = full();
    place_count = 0;
    stepping = 1;
    raise(SIGTRAP);
    turn(shared);
    stepping = 0;
    pypoll_free(shared);
    others_turn = others;
    for (i = 0; i < place_count; i++) {
        shared = full();
        instruction = *places[i];
        breakpoint = places[i];
        *breakpoint = BREAKPOINT;
        turn(shared);
        sem_post(&turn_over);
        if (breakpoint == NULL) {
            while (sem_wait(&done) < 0)
                ;
        } else { /* that was where the stepping began or ended */
            *breakpoint = instruction;
            breakpoint = NULL;
            others(shared);
        }
        while (sem_trywait(&turn_over) == 0)
            ;
        CHECK(content_of(shared).count == count_before + growth + others_growth);
        CHECK(ready_in(shared) == count_before + growth + others_growth);
        pypoll_free(shared);
    }
}

static void test_another_thread_at_each_instruction(void)
{
    uintptr_t begin = (uintptr_t)&__executable_start & ~(uintptr_t)4095;
    struct sigaction action;

    CHECK(mprotect((void *)begin, (uintptr_t)&etext - begin, PROT_READ | PROT_WRITE | PROT_EXEC) == 0);
    memset(&action, 0, sizeof action);
    action.sa_sigaction = trapped;
    action.sa_flags = SA_SIGINFO;
    CHECK(sigaction(SIGTRAP, &action, NULL) == 0);
    sem_init(&go, 0, 0);
    sem_init(&pause_over, 0, 0);
    sem_init(&done, 0, 0);
    sem_init(&turn_over, 0, 0);
    CHECK(pthread_create(&other, NULL, run_other, NULL) == 0);
    stop_everywhere(polls, 0, polls, 0);
    stop_everywhere(polls, 0, registers_another, 1);
    stop_everywhere(registers_one, 1, polls, 0);
    stop_everywhere(registers_one, 1, registers_another, 1);
    stop_everywhere(unregisters_one, -1, polls, 0);
    stop_everywhere(unregisters_one, -1, registers_another, 1);
    stop_everywhere(registers_one, 1, polls_for_long, 0);
    stop_everywhere(unregisters_one, -1, polls_for_long, 0);
    stop_everywhere(polls, 0, forks, 0);
    stop_everywhere(registers_one, 1, forks, 0);
    stop_everywhere(makes_and_frees, 0, forks, 0);
    stop_everywhere(makes_and_frees, 0, makes_and_frees, 0);
    others_turn = NULL;
    sem_post(&go);
    CHECK(pthread_join(other, NULL) == 0);
}
#else
static void test_another_thread_at_each_instruction(void)
{
}
#endif

/* ---- Fork --------------------------------------------------------------- */

static void *hold_in_thread(void *set)
{
    hold(set);
    return NULL;
}

/* The child ends by exit(), so that what it reached is measured too. */
static void check_child(pypoll_set *set, int64_t expected)
{
    int status;
    pid_t child = fork();

    CHECK(child >= 0);
    if (child == 0) {
        CHECK(ready_in(set) == expected);
        CHECK(register_one(set) == 0);
        exit(0);
    }
    CHECK(waitpid(child, &status, 0) == child && status == 0);
}

static void test_a_child_has_a_set_that_works(void)
{
    pypoll_set *first = filled(2), *second = filled(3);
    pthread_t thread;

    check_child(first, 2);
    hold(first);
    check_child(first, -EBUSY); /* a signal handler forked: its wait goes on in the child too */
    check_child(second, 3);
    CHECK(pthread_create(&thread, NULL, hold_in_thread, second) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
    check_child(second, 3);
    CHECK(pypoll_check((intptr_t)second) == -EBUSY && pypoll_resume(second) == -EBUSY);
    CHECK(pypoll_gather((intptr_t)second) == 0);
    pypoll_release(second, pypoll_hold(second));
    CHECK(pypoll_hold(second) == 0 && pypoll_resume(second) == -EBUSY && pypoll_gather((intptr_t)second) == 0);
    CHECK(register_one(first) == 0); /* makes a copy, as it is held: that goes with the set */
    pypoll_free(first);
    pypoll_free(second);
}

int main(void)
{
    pypoll_watch_forks();
    pypoll_watch_forks(); /* an import anew changes nothing */
    test_refused_memory_changes_nothing();
    test_what_the_numbers_cannot_count_is_refused();
    test_odd_answers_of_the_kernel();
    test_another_thread_at_each_instruction();
    test_a_child_has_a_set_that_works();
    puts("passed");
    return 0;
}
