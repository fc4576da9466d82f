// Node's cluster as its documentation has it: the peer of the bench `ratios`.
//
// WORKERS (2), POLICY (`rr` or `none`), NOTIFY (not empty: each request sends the primary `notifyRequest`). Listens on a free
// port of 127.0.0.1, says `listening on ADDRESS` when all workers do, and `fork to listening N us` for each of them.

'use strict';

const cluster = require('node:cluster');
const http = require('node:http');

const workers = Number(process.env.WORKERS || 2);
const notify = Boolean(process.env.NOTIFY);
const body = 'hello world';

if (cluster.isPrimary) {
  cluster.schedulingPolicy = process.env.POLICY === 'none' ? cluster.SCHED_NONE : cluster.SCHED_RR;
  let listening = 0;
  let port = 0;
  let numReqs = 0;
  const fork = () => {
    const forked = process.hrtime.bigint();
    const worker = cluster.fork({ PORT: String(port) });
    worker.on('message', (message) => {
      if (message.cmd === 'notifyRequest') numReqs += 1;
    });
    worker.once('listening', (address) => {
      console.log(`fork to listening ${(process.hrtime.bigint() - forked) / 1000n} us`);
      port = address.port; // the port of the first is the port of those that replace it
      listening += 1;
      if (listening === workers) console.log(`listening on 127.0.0.1:${port}`);
    });
  };
  cluster.on('exit', fork);
  for (let n = 0; n < workers; n += 1) fork();
} else {
  const server = http.createServer((request, response) => {
    response.writeHead(200, { 'Content-Type': 'text/plain; charset=utf-8', 'Content-Length': body.length });
    response.end(body);
    if (notify) process.send({ cmd: 'notifyRequest' });
  });
  server.keepAliveTimeout = 75_000; // not 5 s: connections wait while other servers are measured
  server.listen(Number(process.env.PORT), '127.0.0.1');
}
