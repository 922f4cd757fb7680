/* SPDX-License-Identifier: Apache-2.0
 *
 * Queues, events and graphs. A queue's work is done in order; which queue goes on, and when, is the
 * card's affair, and here one of several servings (emulation.h). Work holds what it needs, but for
 * the memory that it reads and writes: of which one queue may take away what another still needs,
 * if no event is between them, or the host, if it did not wait.
 */
#include <algorithm>
#include <deque>
#include <functional>
#include <memory>
#include <random>
#include <stdlib.h>
#include <string.h>
#include <vector>

/* Behind the library's own: these give words a meaning that it uses otherwise. */
#include "tests/kernels/emulation/device.h"
#include "tests/kernels/emulation/queues.h"

typedef std::function<void ()> Work;
typedef std::vector<Work> Works;

/* How often it has been asked to be recorded, and has been. */
struct Event
{
  uint64_t asked, reached;
};

struct Item
{
  Work work;
  std::shared_ptr<Event> records, awaits; /* at most one; NULL: work */
  uint64_t count;                         /* of that event */
};

struct CUstream_st
{
  std::deque<Item> items;
  std::unique_ptr<Works> captured; /* NULL: not capturing */
};

struct CUevent_st
{
  std::shared_ptr<Event> event;
};

struct CUgraph_st
{
  Works works;
};

struct CUgraphExec_st
{
  Works works;
};

namespace emulation
{
static Serving
serving_of (const char *name)
{
  return name == NULL                         ? AT_ONCE
         : strcmp (name, "late") == 0         ? LATE
         : strcmp (name, "others-first") == 0 ? OTHERS_FIRST
         : strcmp (name, "by-chance") == 0    ? BY_CHANCE
                                              : AT_ONCE;
}

static struct
{
  Serving serving = serving_of (getenv ("EMULATED_QUEUES"));
  std::vector<cudaStream_t> queues; /* as they were made */
  std::minstd_rand random;
} card;

void
set_serving (Serving serving)
{
  finish_all_queues ();
  card.serving = serving;
}

/* -- serving ------------------------------------------------------------------------------------
 */

static bool
can_go_on (cudaStream_t queue)
{
  if (queue->items.empty ())
    return false;
  const Item &head = queue->items.front ();
  return head.awaits == NULL || head.awaits->reached >= head.count;
}

static void
do_next (cudaStream_t queue)
{
  const Item item = queue->items.front ();
  queue->items.pop_front ();
  if (item.work)
    item.work ();
  if (item.records != NULL)
    item.records->reached = std::max (item.records->reached, item.count);
}

static cudaStream_t
who_records (const std::shared_ptr<Event> &event, uint64_t count)
{
  for (cudaStream_t queue : card.queues)
    for (const Item &item : queue->items)
      if (item.records == event && item.count >= count)
        return queue;
  fault ("a queue waits for an event that nobody records");
}

/* Brings `queue` on, by its own next item or by one that this waits for. */
static void
bring_on (cudaStream_t queue)
{
  for (size_t i = 0; i <= card.queues.size (); i++)
    {
      if (can_go_on (queue))
        return do_next (queue);
      const Item &head = queue->items.front ();
      queue = who_records (head.awaits, head.count);
    }
  fault ("queues wait for each other");
}

static cudaStream_t
one_by_chance ()
{
  std::vector<cudaStream_t> able;
  std::copy_if (card.queues.begin (), card.queues.end (), std::back_inserter (able), can_go_on);
  return able.empty () ? NULL : able[card.random () % able.size ()];
}

/* What the card does while the host goes on. */
static void
serve ()
{
  const size_t first = card.serving == OTHERS_FIRST ? 1 : 0;
  if (card.serving == BY_CHANCE)
    for (unsigned n = card.random () % 4; n > 0; n--)
      if (const cudaStream_t queue = one_by_chance ())
        do_next (queue);
  if (card.serving != AT_ONCE && card.serving != OTHERS_FIRST)
    return;
  for (bool on = true; on;)
    {
      on = false;
      for (size_t i = first; i < card.queues.size (); i++)
        for (; can_go_on (card.queues[i]); on = true)
          do_next (card.queues[i]);
    }
}

/* What it does while the host waits for `queue`. */
static void
serve_for (cudaStream_t queue)
{
  const cudaStream_t any = card.serving == BY_CHANCE ? one_by_chance () : NULL;
  if (any != NULL)
    do_next (any);
  else
    bring_on (queue);
}

static void
add (cudaStream_t queue, Item item)
{
  queue->items.push_back (std::move (item));
  serve ();
}

void
queue_work (cudaStream_t queue, Work work)
{
  if (queue == NULL)
    work (); /* the host waits for what it gives to the default queue: all that tests do with it */
  else if (queue->captured != NULL)
    queue->captured->push_back (std::move (work));
  else
    add (queue, { std::move (work), NULL, NULL, 0 });
}

void
finish_queue (cudaStream_t queue)
{
  while (queue != NULL && !queue->items.empty ())
    serve_for (queue);
}

void
finish_all_queues ()
{
  for (cudaStream_t queue : card.queues)
    finish_queue (queue);
}
}

using namespace emulation;

/* -- queues -------------------------------------------------------------------------------------
 */

cudaError_t
cudaStreamCreateWithFlags (cudaStream_t *stream, unsigned)
{
  *stream = new CUstream_st ();
  card.queues.push_back (*stream);
  return cudaSuccess;
}

cudaError_t
cudaStreamDestroy (cudaStream_t stream)
{
  finish_queue (stream);
  card.queues.erase (std::find (card.queues.begin (), card.queues.end (), stream));
  delete stream;
  return cudaSuccess;
}

cudaError_t
cudaStreamSynchronize (cudaStream_t stream)
{
  if (stream != NULL && stream->captured != NULL)
    return failed (cudaErrorStreamCaptureUnsupported);
  finish_queue (stream);
  return cudaSuccess;
}

cudaError_t
cudaDeviceSynchronize ()
{
  finish_all_queues ();
  return cudaSuccess;
}

/* -- events -------------------------------------------------------------------------------------
 */

cudaError_t
cudaEventCreateWithFlags (cudaEvent_t *event, unsigned)
{
  *event = new CUevent_st{ std::make_shared<Event> () };
  return cudaSuccess;
}

cudaError_t
cudaEventDestroy (cudaEvent_t event)
{
  delete event;
  return cudaSuccess;
}

cudaError_t
cudaEventRecord (cudaEvent_t event, cudaStream_t stream)
{
  add (stream, { NULL, event->event, NULL, ++event->event->asked });
  return cudaSuccess;
}

/* For the last record that was asked for before; for nothing if there was none. */
cudaError_t
cudaStreamWaitEvent (cudaStream_t stream, cudaEvent_t event, unsigned)
{
  add (stream, { NULL, NULL, event->event, event->event->asked });
  return cudaSuccess;
}

cudaError_t
cudaEventSynchronize (cudaEvent_t event)
{
  const std::shared_ptr<Event> &e = event->event;
  for (const uint64_t count = e->asked; e->reached < count;)
    serve_for (who_records (e, count));
  return cudaSuccess;
}

/* -- graphs -------------------------------------------------------------------------------------
 */

cudaError_t
cudaStreamBeginCapture (cudaStream_t stream, cudaStreamCaptureMode)
{
  if (stream->captured != NULL)
    return failed (cudaErrorStreamCaptureUnsupported);
  stream->captured.reset (new Works ());
  return cudaSuccess;
}

cudaError_t
cudaStreamEndCapture (cudaStream_t stream, cudaGraph_t *graph)
{
  if (stream->captured == NULL)
    return failed (cudaErrorStreamCaptureInvalidated);
  *graph = new CUgraph_st{ std::move (*stream->captured) };
  stream->captured.reset ();
  return cudaSuccess;
}

cudaError_t
cudaGraphInstantiate (cudaGraphExec_t *exec, cudaGraph_t graph, unsigned)
{
  *exec = new CUgraphExec_st{ graph->works };
  return cudaSuccess;
}

cudaError_t
cudaGraphDestroy (cudaGraph_t graph)
{
  delete graph;
  return cudaSuccess;
}

cudaError_t
cudaGraphLaunch (cudaGraphExec_t exec, cudaStream_t stream)
{
  for (const Work &work : exec->works)
    queue_work (stream, work);
  return cudaSuccess;
}

cudaError_t
cudaGraphExecDestroy (cudaGraphExec_t exec)
{
  delete exec;
  return cudaSuccess;
}
